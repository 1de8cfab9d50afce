//! What people install: the archives, the Debian package, the formula, and the templates for CI.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_vmdeck");
const VERSION: &str = env!("CARGO_PKG_VERSION");

fn dist(out: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(Path::new(ROOT).join("scripts/dist.sh"));
    command
        .arg("--out")
        .arg(out)
        .args(words)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .env("LEVEL", "1")
        .output()
        .expect("the script")
}

fn sh(script: &str, dir: &Path) -> String {
    let out = Command::new("bash").args(["-euc", script]).current_dir(dir).output().expect("bash");
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn the_archive_and_the_package_hold_a_program_that_runs_and_its_pages() {
    let home = tempfile::tempdir().expect("tempdir");
    let out = home.path();
    let target = if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };
    // Without what only a debugger reads: it is packed twice.
    let program = out.join("program").display().to_string();
    sh(&format!("strip -o '{program}' '{PROGRAM}'"), out);
    let made = dist(out, &["--binary", &program, target]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let name = format!("vmdeck-{VERSION}-{target}");
    sh("sha256sum --check --quiet SHA256SUMS", out);
    sh(&format!("tar -xzf {name}.tar.gz"), out);
    assert_eq!(sh(&format!("{name}/vmdeck --version"), out).trim(), format!("vmdeck {VERSION}"));
    for file in ["README.md", "LICENSE-MIT", "man/vmdeck-boot.1", "completions/vmdeck.bash", "config.example.toml"] {
        assert!(out.join(&name).join(file).is_file(), "{file}");
    }
    sh("dpkg-deb -x vmdeck_*.deb deb && dpkg-deb -f vmdeck_*.deb Depends Recommends", out);
    assert_eq!(sh("deb/usr/bin/vmdeck --version", out).trim(), format!("vmdeck {VERSION}"));
    sh(
        "gzip -t deb/usr/share/man/man1/vmdeck-image-pull.1.gz && bash -n deb/usr/share/bash-completion/completions/vmdeck",
        out,
    );
    assert_eq!(sh("dpkg-deb -c vmdeck_*.deb | grep -v root/root || true", out), "", "all of it belongs to root");
    // The same commit gives the same bytes.
    let before = fs::read_to_string(out.join("SHA256SUMS")).expect("sums");
    assert!(dist(out, &["--binary", &program, target]).status.success());
    assert_eq!(fs::read_to_string(out.join("SHA256SUMS")).expect("sums"), before);

    let refused = dist(out, &["--binary", PROGRAM, "x86_64-unknown-linux-musl"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is not static"));
    let unknown = dist(out, &["riscv64gc-unknown-nowhere"]);
    assert_eq!(unknown.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("rustup target add riscv64gc-unknown-nowhere"));
}

#[test]
fn the_formula_names_each_archive_with_its_digest() {
    let home = tempfile::tempdir().expect("tempdir");
    let targets = ["aarch64-apple-darwin", "x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];
    for target in targets {
        fs::write(home.path().join(format!("vmdeck-{VERSION}-{target}.tar.gz")), target).expect("written");
    }
    assert!(dist(home.path(), &["--sums-only"]).status.success());
    let formula = fs::read_to_string(home.path().join("vmdeck.rb")).expect("formula");
    let sums = fs::read_to_string(home.path().join("SHA256SUMS")).expect("sums");
    for target in targets {
        let sum = sums.lines().find(|line| line.contains(target)).and_then(|line| line.split(' ').next()).expect("sum");
        let url = format!("vmdeck-{VERSION}-{target}.tar.gz\"\n      sha256 \"{sum}\"");
        assert!(formula.contains(&url), "{formula}");
    }
    let count =
        |word: &str| formula.lines().filter(|line| line.trim_start().starts_with(word) || line.trim() == word).count();
    assert_eq!(count("end"), formula.lines().filter(|line| line.ends_with(" do")).count() + 2, "{formula}");
}

/// Returns every shell script in a tree of YAML: what stands below these keys.
fn scripts(value: &Value, keys: &[&str], out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if keys.contains(&key.as_str()) => out.push(text.clone()),
                    Value::Array(lines) if keys.contains(&key.as_str()) => {
                        out.push(lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"));
                    }
                    other => scripts(other, keys, out),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| scripts(value, keys, out)),
        _ => {}
    }
}

#[test]
fn the_templates_for_ci_are_whole_and_their_commands_are_ours() {
    for (path, least) in [
        ("ci/github/action.yml", 3),
        ("ci/gitlab/vmdeck.yml", 2),
        (".github/workflows/release.yml", 5),
        (".github/workflows/ci.yml", 3),
    ] {
        let text = fs::read_to_string(Path::new(ROOT).join(path)).expect(path);
        let yaml: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut found = Vec::new();
        scripts(&yaml, &["run", "script", "before_script"], &mut found);
        assert!(found.len() >= least, "{path}: {found:?}");
        for script in found {
            // What a pull request can name must not become a script.
            let is_safe = script.split("${{").skip(1).all(|inner| inner.trim_start().starts_with("matrix."));
            assert!(is_safe, "{path}: {script}");
            sh(
                &format!("bash -n <<'SCRIPT'\n{}\nSCRIPT", script.replace("${{", "").replace("}}", "")),
                Path::new(ROOT),
            );
            for line in script.lines().filter_map(|line| line.split_once("vmdeck --ci").map(|(_, words)| words)) {
                let words: Vec<&str> =
                    line.split_whitespace().filter(|word| !word.starts_with('$') && *word != "--").collect();
                let run = Command::new(PROGRAM).arg("--ci").args(&words).arg("--help").output().expect("vmdeck");
                assert!(run.status.success(), "{path}: {line}");
            }
        }
    }
    // Every version that a template names is this one.
    for path in ["ci/github/action.yml", "ci/gitlab/vmdeck.yml"] {
        let text = fs::read_to_string(Path::new(ROOT).join(path)).expect(path);
        assert!(text.contains(&format!("\"{VERSION}\"")), "{path}");
    }
}
