//! The stand-in of `ssh`.

use super::{
    options::SshOptions,
    real::{FAILED, become_real, is_guest},
    relayed,
};
use crate::app::Io;
use std::io::Read;
use vmdeck_core::{
    command::sh_quote,
    engine::stand_in::{COMMAND, StandInRequest},
};

/// The letters of OpenSSH's client that have a value (9.x).
const WITH_VALUE: &str = "BbcDEeFIiJLlmOoPpQRSWw";
/// Those that want something else than a command.
const OTHERS: &str = "DJLOQRWw";
/// The letters that have no value.
const SWITCHES: &str = "1246AaCfGgKkMNnqsTtVvXxYy";
/// Switches that are not served, each with the reason.
const REFUSED: [(char, &str); 2] = [('N', "there is no connection to be held"), ('s', "a subsystem is no command")];

/// Runs a command in the guest, or becomes the real program for another host.
pub(super) fn run(args: &[String], io: &mut Io<'_>) -> u8 {
    let options = match SshOptions::read(args, WITH_VALUE, 1) {
        Ok(options) => options,
        Err(why) => return refuse(&why, io),
    };
    let Some((destination, command)) = options.rest.split_first() else { return become_real("ssh", args, io) };
    let (user, host) = destination_of(destination);
    if !is_guest(host, options.value('p')) {
        return become_real("ssh", args, io);
    }
    if let Some(letter) = OTHERS.chars().find(|letter| options.value(*letter).is_some()) {
        return refuse(&format!("-{letter} is not served: commands go over a session that is open already"), io);
    }
    if let Some((letter, why)) = REFUSED.iter().find(|(letter, _)| options.has(*letter)) {
        return refuse(&format!("-{letter} is not served: {why}"), io);
    }
    if let Some(letter) = options.switches.iter().find(|letter| !SWITCHES.contains(**letter)) {
        return refuse(&format!("unknown option -{letter}"), io);
    }
    if options.has('f') {
        return in_background(args, io);
    }
    let command = command.join(" ");
    let script = match script(options.value('l').or(user), &command) {
        Ok(script) => script,
        Err(why) => return refuse(&why, io),
    };
    let input: Option<Box<dyn Read + Send>> = if options.has('n') { None } else { Some(Box::new(std::io::stdin())) };
    relayed::run(&StandInRequest { script, command, copies: false }, input, io.out, io.err)
}

/// Goes on in a process of its own, as `-f` wants it; what it writes still comes here.
#[expect(clippy::disallowed_methods, reason = "it outlives this process, and ends with the case")]
fn in_background(args: &[String], io: &mut Io<'_>) -> u8 {
    let rest = args.iter().map(|word| if word == "-f" { "-n" } else { word });
    let own = std::env::current_exe().and_then(|own| {
        std::process::Command::new(own).args([COMMAND, "ssh"]).args(rest).stdin(std::process::Stdio::null()).spawn()
    });
    match own {
        Ok(_) if args.iter().any(|word| word == "-f") => 0,
        Ok(_) => refuse("-f is served as a word of its own only", io),
        Err(e) => refuse(&format!("cannot go on in the background: {e}"), io),
    }
}

fn refuse(why: &str, io: &mut Io<'_>) -> u8 {
    io.warn(&format!("error: ssh of this run: {why}"));
    FAILED
}

/// Returns the user and the host of a destination.
pub(super) fn destination_of(text: &str) -> (Option<&str>, &str) {
    let text = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, host) = text.rsplit_once('@').map_or((None, text), |(user, host)| (Some(user), host));
    let is_address = host.matches(':').count() > 1;
    let host = if is_address { host } else { host.split(':').next().unwrap_or(host) };
    (user, host)
}

/// Returns what sshd would run: the command, else what is read, by the user's login shell.
fn script(user: Option<&str>, command: &str) -> Result<String, String> {
    let has_command = !command.trim().is_empty();
    Ok(match user {
        None | Some("root") if has_command => format!("exec \"${{SHELL:-/bin/sh}}\" -c {}", sh_quote(command)),
        None | Some("root") => "exec \"${SHELL:-/bin/sh}\"".to_owned(),
        Some(user)
            if user.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && !user.starts_with('-') =>
        {
            if has_command {
                format!("exec su - {user} -c {}", sh_quote(command))
            } else {
                format!("exec su - {user}")
            }
        }
        Some(user) => return Err(format!("`{user}` is no user's name")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_a_user_and_a_host() {
        for (text, expected) in [
            ("root@localhost", (Some("root"), "localhost")),
            ("localhost", (None, "localhost")),
            ("ssh://root@127.0.0.1:22", (Some("root"), "127.0.0.1")),
            ("a@b@::1", (Some("a@b"), "::1")),
        ] {
            assert_eq!(destination_of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_command_is_for_the_login_shell() {
        for (user, command, expected) in [
            (Some("root"), "echo \"a b\"", Ok("exec \"${SHELL:-/bin/sh}\" -c 'echo \"a b\"'")),
            (None, "", Ok("exec \"${SHELL:-/bin/sh}\"")),
            (Some("ci"), "id", Ok("exec su - ci -c id")),
            (Some("-c"), "id", Err("`-c` is no user's name")),
            (Some("a;b"), "", Err("`a;b` is no user's name")),
        ] {
            assert_eq!(script(user, command), expected.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
