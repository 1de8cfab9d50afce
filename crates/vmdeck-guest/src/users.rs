//! The users of the guest's root, from its own files: there is no service that could be asked.

use super::wire::User;
use std::fs;

/// A user as a command needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) name: String,
    pub(super) home: String,
    pub(super) shell: String,
}

/// Finds a user in the guest's own files, which are read below the current root.
pub(super) fn find(user: &User) -> Result<Account, String> {
    let read =
        |path: &str| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    look_up(user, &read("/etc/passwd"), &read("/etc/group"))
}

fn look_up(user: &User, passwd: &str, group: &str) -> Result<Account, String> {
    match user {
        User::Root => Ok(by(passwd, group, |account| account.uid == 0).unwrap_or_else(|| nameless(0, 0, "/root"))),
        User::Named(name) => by(passwd, group, |account| account.name == *name)
            .ok_or_else(|| format!("there is no user `{name}` in the guest's /etc/passwd")),
        User::Numbered { uid, gid, groups, home } => {
            let known = by(passwd, group, |account| account.uid == *uid);
            let account = known.unwrap_or_else(|| nameless(*uid, *gid, home));
            Ok(Account { gid: *gid, groups: groups.clone(), ..account })
        }
    }
}

/// Returns a user that no file knows.
fn nameless(uid: u32, gid: u32, home: &str) -> Account {
    let name = if uid == 0 { "root".to_owned() } else { uid.to_string() };
    Account { uid, gid, groups: Vec::new(), name, home: home.to_owned(), shell: "/bin/sh".to_owned() }
}

/// Returns the first user of a list (passwd(5)) that is wanted, with its groups (group(5)).
fn by(passwd: &str, group: &str, is_wanted: impl Fn(&Account) -> bool) -> Option<Account> {
    let mut account = passwd.lines().filter_map(account).find(is_wanted)?;
    account.groups = group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { return None };
            members.split(',').any(|member| member == account.name).then(|| gid.parse().ok())?
        })
        .collect();
    Some(account)
}

fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    Some(Account {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        groups: Vec::new(),
        name: name.to_owned(),
        home: or(home, "/"),
        shell: or(shell, "/bin/sh"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nci:x:1000:100::/home/ci:\nodd:x:no:1::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:ci,other\nusers:x:100:\nvideo:x:44:other\nkvm:x:9:other,ci\nbad:x\n";

    #[test]
    fn users_are_found_with_their_groups() {
        let ci = look_up(&User::Named("ci".into()), PASSWD, GROUP).expect("known");
        assert_eq!((ci.uid, ci.gid, ci.groups, ci.shell.as_str()), (1000, 100, vec![27, 9], "/bin/sh"));
        let root = look_up(&User::Root, PASSWD, GROUP).expect("known");
        assert_eq!((root.uid, root.home.as_str(), root.shell.as_str()), (0, "/root", "/bin/bash"));
    }

    #[test]
    fn a_caller_keeps_its_numbers_whether_the_root_knows_it_or_not() {
        let caller = |uid| User::Numbered { uid, gid: 7, groups: vec![1, 2], home: "/home/me".into() };
        let known = look_up(&caller(1000), PASSWD, GROUP).expect("known");
        assert_eq!((known.name.as_str(), known.home.as_str(), known.gid), ("ci", "/home/ci", 7));
        let unknown = look_up(&caller(4242), PASSWD, GROUP).expect("numbers are enough");
        assert_eq!((unknown.name.as_str(), unknown.home.as_str(), unknown.groups), ("4242", "/home/me", vec![1, 2]));
    }

    #[test]
    fn a_name_that_is_unknown_or_broken_is_refused() {
        for name in ["nobody", "odd", "broken", ""] {
            let why = look_up(&User::Named(name.into()), PASSWD, GROUP).expect_err(name);
            assert!(why.contains(&format!("no user `{name}`")), "{why}");
        }
        assert_eq!(look_up(&User::Root, "", "").expect("always").home, "/root");
    }
}
