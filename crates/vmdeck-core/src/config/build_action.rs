//! What a case is: exactly one of `run`, `script`, `steps`, `discover` and `manual`.

use super::{build::Build, tree::Origin};
use std::path::Path;
use vmdeck_model::{
    discover::Discovery,
    ids::RoleId,
    key::Value,
    quantity::show_size,
    suite::{CaseAction, CaseStep, does_nothing},
};

impl Build<'_> {
    /// Returns what a case runs; `None` = nothing that could be run, which was told.
    pub(super) fn action(
        &mut self,
        (suite, index): (&str, usize),
        name: &str,
        on: &[RoleId],
        origin: &Origin,
    ) -> Option<CaseAction> {
        let full = |key: &str| format!("suites.{suite}.cases.{index}.{key}");
        let shown = format!("suites.{suite}.cases[{index}]");
        let words = ["run", "script", "steps", "discover", "manual"];
        let given: Vec<&str> = words.into_iter().filter(|key| self.is_written(&full(key))).collect();
        if given.is_empty() && words.iter().any(|key| self.has_problem(&format!("{shown}.{key}"))) {
            return None;
        }
        let [key] = given[..] else {
            let text = format!("case `{name}` needs exactly one of `run`, `script`, `steps`, `discover` and `manual`");
            self.problem(origin, &shown, text, None);
            return None;
        };
        match self.value(&full(key), &format!("suites.*.cases.[].{key}"))? {
            Value::Text(question) if key == "manual" && question.trim().is_empty() => {
                self.problem(origin, &format!("{shown}.manual"), "it is empty: nobody could answer it", None);
                None
            }
            Value::Text(question) if key == "manual" => Some(CaseAction::Manual(question)),
            Value::Text(run) if does_nothing(&run) => {
                self.problem(origin, &shown, format!("`run` of case `{name}` is empty, which would always pass"), None);
                None
            }
            Value::Text(run) => Some(CaseAction::Run(run)),
            Value::Path(path) => {
                if let Some(why) = unusable(&path) {
                    self.problem(origin, &format!("{shown}.script"), why, None);
                }
                if self.is_written(&full("shell")) {
                    let text = "it has no effect on a `script`, which is run by the program that its first line names";
                    self.problem(origin, &format!("{shown}.shell"), text, None);
                }
                Some(CaseAction::Script(path))
            }
            Value::Steps(steps) if steps.iter().all(|step| *step == CaseStep::Reboot) => {
                let text = format!("`steps` of case `{name}` hold no command, so they would always pass");
                self.problem(origin, &shown, text, None);
                None
            }
            Value::Steps(steps) => Some(CaseAction::Steps(steps)),
            Value::Discover(source) => {
                if on.len() > 1 {
                    let text = "tests are found in one guest: give the case one role in `on`";
                    self.problem(origin, &format!("{shown}.discover"), text, None);
                }
                Some(CaseAction::Discover(Discovery { source, wanted: Vec::new() }))
            }
            _ => None,
        }
    }
}

/// Returns why a script of this host cannot be run in a guest.
fn unusable(path: &Path) -> Option<String> {
    let shown = path.display();
    let suffix = path.extension().map(|suffix| suffix.to_string_lossy().to_lowercase()).unwrap_or_default();
    let bytes = match std::fs::metadata(path).map(|meta| (meta.is_file(), meta.len())) {
        Ok((true, size @ 1..)) if size > vmdeck_files::LARGE => {
            return Some(format!("`{shown}` is no script: it has {}", show_size(size)));
        }
        // What runs them is said by their name.
        Ok((true, 1..)) if ["ps1", "cmd", "bat", "exe"].contains(&suffix.as_str()) => return None,
        Ok((true, 1..)) => first_line(path),
        Ok(_) => return Some(format!("`{shown}` is empty or not a file")),
        Err(e) => return Some(format!("cannot open `{shown}`: {e}")),
    };
    match bytes {
        Ok(line) if line.starts_with(b"#!") && line.ends_with(b"\r") => {
            Some(format!("`{shown}` has the line ends of Windows, so its first line names no program"))
        }
        Ok(line) if line.starts_with("\u{feff}".as_bytes()) => {
            Some(format!("`{shown}` begins with a byte order mark, so its first line names no program"))
        }
        Ok(_) => None,
        Err(e) => Some(format!("cannot read `{shown}`: {e}")),
    }
}

/// Returns the first line of a file, as far as a kernel reads it.
fn first_line(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut head = Vec::new();
    vmdeck_files::open(path)?.take(512).read_to_end(&mut head)?;
    head.truncate(memchr::memchr(b'\n', &head).unwrap_or(head.len()));
    Ok(head)
}
