//! The credentials by which systemd gives a system a user and keys at its first boot (systemd.system-credentials(7), tmpfiles.d(5),
//! sysusers.d(5)). Facts: from version 252 on; a file that is there already stays as it is.

use super::keys::KeyPair;
use base64::{Engine, engine::general_purpose::STANDARD};

/// Returns each credential's name and content.
pub(super) fn list(user: &str, login: &KeyPair, host: &KeyPair) -> Vec<(&'static str, String)> {
    let line = |path: &str, mode: &str, owner: &str, text: &str| {
        format!("f~ {path} {mode} {owner} {owner} - {}\n", STANDARD.encode(text))
    };
    let folder = |path: &str, owner: &str| format!("d {path} 0700 {owner} {owner}\n");
    let mut files = [
        line("/etc/ssh/ssh_host_ed25519_key", "0600", "root", &host.private),
        line("/etc/ssh/ssh_host_ed25519_key.pub", "0644", "root", &format!("{}\n", host.public)),
        folder("/root/.ssh", "root"),
        line("/root/.ssh/authorized_keys", "0600", "root", &format!("{}\n", login.public)),
    ]
    .concat();
    let mut out = Vec::new();
    if user != "root" && is_name(user) {
        let home = format!("/home/{user}");
        files.push_str(&folder(&home, user));
        files.push_str(&folder(&format!("{home}/.ssh"), user));
        files.push_str(&line(&format!("{home}/.ssh/authorized_keys"), "0600", user, &format!("{}\n", login.public)));
        files.push_str(&line("/etc/sudoers.d/90-vmdeck", "0440", "root", &format!("{user} ALL=(ALL) NOPASSWD:ALL\n")));
        out.push(("sysusers.extra", format!("u {user} 1000 \"{user}\" {home} /bin/bash\n")));
    }
    out.push(("tmpfiles.extra", files));
    out
}

/// Returns whether a name can be a user's, and so stands in these files as one word.
fn is_name(user: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    user.len() <= 31 && user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && user.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_adds_no_line() {
        let (login, host) = (KeyPair::generate("a").expect("key"), KeyPair::generate("b").expect("key"));
        let lines = |user: &str| list(user, &login, &host).into_iter().map(|(_, text)| text).collect::<String>();
        assert!(lines("ci").contains("u ci 1000 \"ci\" /home/ci /bin/bash\n"));
        for user in ["root", "", "x y", "a\nu evil 0", "../x", "-x", "Ci", &"x".repeat(32)] {
            assert!(!lines(user).contains("u ") && !lines(user).contains("sudoers"), "{user:?}");
        }
        assert!(
            lines("ci").lines().all(|line| line.starts_with("f~ ") || line.starts_with("d ") || line.starts_with("u "))
        );
    }
}
