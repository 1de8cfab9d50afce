//! Notes what `vmdeck --version --verbose` tells: the target, the compiler and the commit.

use std::{env, ffi::OsStr, path::Path, process::Command};

fn main() {
    let say = |name: &str, value: &str| println!("cargo::rustc-env=BUILD_{name}={value}");
    say("TARGET", &env::var("TARGET").unwrap_or_default());
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    say("RUSTC", &printed(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned()));
    // A package that was published has no repository around it.
    let commit = printed(OsStr::new("git"), &["log", "-1", "--format=%h (%cs)"]);
    say("COMMIT", &commit.filter(|_| Path::new(".git").exists()).unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
}

#[expect(clippy::disallowed_methods, reason = "it runs while vmdeck is built")]
fn printed(program: &OsStr, words: &[&str]) -> Option<String> {
    let out = Command::new(program).args(words).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}
