//! Checked values to the roles of a suite: the guests whose machines it needs together.

use super::{build::Build, build_suite::no_guest, tree::Origin};
use std::collections::BTreeMap;
use vmdeck_model::{
    guest::Guest,
    ids::{GuestId, RoleId},
    key::Value,
    suite::{MOST_ROLES, SuiteNetwork},
};

impl Build<'_> {
    /// Returns the roles of a suite; what is wrong with them is noted.
    pub(super) fn roles(&mut self, suite: &str, origin: &Origin, guests: &[Guest]) -> BTreeMap<RoleId, GuestId> {
        let path = format!("suites.{suite}.roles");
        let Some(Value::Map(map)) = self.value(&path, "suites.*.roles") else { return BTreeMap::new() };
        if map.is_empty() {
            self.problem(
                origin,
                &path,
                "there are no roles",
                Some("name them: { server = \"deb\", client = \"deb\" }"),
            );
        }
        if map.len() > MOST_ROLES {
            self.problem(origin, &path, format!("there are more than {MOST_ROLES} roles"), None);
        }
        let mut out: BTreeMap<RoleId, GuestId> = BTreeMap::new();
        for (role, name) in map {
            let Some(role) = self.role(suite, &role, origin, &out, guests) else { continue };
            let Some(guest) = guests.iter().find(|guest| guest.id.as_str() == name) else {
                self.problem(origin, &format!("{path}.{role}"), no_guest(&name, guests), None);
                continue;
            };
            if let Some((other, _)) = out.iter().find(|(_, of)| **of == guest.id && is_there_once(guest)) {
                let why = format!("`{name}` is one machine, and is `{other}` already");
                let hint = "give each role a guest of its own";
                self.problem(origin, &format!("{path}.{role}"), why, Some(hint));
                continue;
            }
            out.insert(role, guest.id.clone());
        }
        out
    }

    /// Returns the name of a role, if it can be one: it is part of a machine's name and of a variable's.
    fn role(
        &mut self,
        suite: &str,
        text: &str,
        origin: &Origin,
        others: &BTreeMap<RoleId, GuestId>,
        guests: &[Guest],
    ) -> Option<RoleId> {
        let path = format!("suites.{suite}.roles");
        let is_host = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.ends_with('-');
        let role = match RoleId::new(text) {
            Ok(role) if is_host && !text.eq_ignore_ascii_case("localhost") => role,
            _ => {
                let why = format!("`{text}` cannot be a host name, which the name of a role becomes");
                self.problem(origin, &path, why, Some("use a-z A-Z 0-9 - and begin with a letter or digit"));
                return None;
            }
        };
        if let Some(other) = others.keys().find(|other| other.as_variable() == role.as_variable()) {
            let variable = role.as_variable();
            let why = format!("`{role}` and `{other}` have the same variable: VMDECK_{variable}_ADDR");
            self.problem(origin, &path, why, Some("give one another name"));
            return None;
        }
        match GuestId::of_role(suite, &role) {
            Err(e) => {
                self.problem(origin, &path, format!("the machine's name is too long: {e}"), None);
                return None;
            }
            Ok(id) if guests.iter().any(|guest| guest.id == id) => {
                let why = format!("the machine of role `{role}` would be called like guest `{id}`");
                self.problem(origin, &path, why, Some("give one of them another name"));
                return None;
            }
            Ok(_) => {}
        }
        Some(role)
    }

    /// Returns the names of the roles as they are written, whether they can be used or not.
    pub(super) fn written_roles(&mut self, suite: &str) -> Vec<String> {
        match self.value(&format!("suites.{suite}.roles"), "suites.*.roles") {
            Some(Value::Map(map)) => map.into_keys().collect(),
            _ => Vec::new(),
        }
    }

    /// Returns how the machines of the roles reach each other.
    pub(super) fn network(
        &mut self,
        suite: &str,
        origin: &Origin,
        roles: &BTreeMap<RoleId, GuestId>,
        guests: &[Guest],
    ) -> SuiteNetwork {
        let path = format!("suites.{suite}.network");
        let word = self.text(&path, "suites.*.network").unwrap_or_default();
        if word == "private" && !self.is_written(&format!("suites.{suite}.roles")) {
            self.problem(origin, &path, "it has no effect without `roles`", None);
        }
        let cannot = guests
            .iter()
            .filter(|guest| roles.values().any(|of| *of == guest.id))
            .find_map(|guest| self.cannot_join(guest));
        match (word.as_str(), cannot) {
            ("private", Some(why)) => {
                self.problem(origin, &path, why, Some("set `network = \"none\"`"));
                SuiteNetwork::Own
            }
            ("private", None) => SuiteNetwork::Private,
            ("auto", None) if !roles.is_empty() => SuiteNetwork::Private,
            _ => SuiteNetwork::Own,
        }
    }

    /// Returns why a guest cannot be in a private network, if it cannot.
    fn cannot_join(&self, guest: &Guest) -> Option<String> {
        if !self.private_networks.contains(&guest.backend.as_str()) {
            return Some(format!("guest `{}` (backend {}) cannot be in a private network", guest.id, guest.backend));
        }
        let is_given = !guest.options.texts("arguments").is_empty();
        is_given.then(|| format!("guest `{}` has `qemu.arguments`, and nothing is added to those", guest.id))
    }

    /// Returns the roles that run a case.
    pub(super) fn case_roles(
        &mut self,
        path: &str,
        case: &str,
        origin: &Origin,
        roles: &BTreeMap<RoleId, GuestId>,
        written: &[String],
    ) -> Vec<RoleId> {
        let words = self.texts(path, "suites.*.cases.[].on");
        let known = written.join(", ");
        if written.is_empty() {
            // What is wrong with the roles themselves is told already.
            if !words.is_empty() {
                self.problem(origin, path, "it has no effect in a suite without `roles`", None);
            }
            return Vec::new();
        }
        if words.is_empty() {
            let why = format!("nothing says where case `{case}` is run");
            self.problem(origin, path, why, Some(&format!("add `on` with one of the roles: {known}")));
        }
        let mut out: Vec<RoleId> = Vec::new();
        for word in words {
            match roles.keys().find(|role| role.as_str() == word) {
                Some(role) if out.contains(role) => {
                    self.problem(origin, path, format!("`{word}` is there twice"), None);
                }
                Some(role) => out.push(role.clone()),
                None if written.contains(&word) => {}
                None => self.problem(origin, path, format!("`{word}` is not a role (known: {known})"), None),
            }
        }
        out
    }
}

/// Returns whether a guest is a machine that there is only once.
fn is_there_once(guest: &Guest) -> bool {
    guest.machine.is_some() || guest.address.is_some()
}
