//! Checked values to a [`Setup`]: defaults filled in, names looked up, paths made absolute.
//!
//! What the values may be was decided before, in `check`.

use super::{
    Problem, Sources, case_defaults,
    check::{self, Checked},
    keys::BACKEND,
    script_notes,
    tree::{self, Origin},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use vmdeck_model::{
    catalogue::Catalogue,
    guest::{
        ConsolePatterns, CrashPolicy, FirstBoot, Fresh, Guest, Network, Os, PowerHooks, Seed, Shutdown, Source,
        SurvivorPolicy,
    },
    ids::GuestId,
    image::Image,
    key::{Key, Options, Value},
    pattern::Pattern,
    plan::Setup,
    quarantine::Quarantine,
    secret::Secret,
    snapshot::{Checkpoint, SnapshotPoint},
    suite::{ScriptShell, Suite},
    trouble::TroubleKind,
    workers::Workers,
};

/// Every effective value with its place, for `config show`.
pub type Values = BTreeMap<String, (Value, String)>;

/// The transports of a guest that boots a folder of this host: nothing that is started at its boot serves another one.
const HOST_TRANSPORTS: &[&str] = &["serial"];
/// What the console of such a guest says when it cannot come up.
const INIT_FAILED: &str = "/vmdeck-init: FAILED: .*/";

/// What a BIOS and a UEFI say on the console when they find nothing to boot.
const NO_DISK: [&str; 2] =
    ["/No bootable device/", "/BdsDxe: (No bootable option or device was found|starting .*Internal Shell)/"];
/// What the console says when cloud-init has ended and has not found what it was given: nobody will ever log in.
const NO_SEED: &str = "/Datasource DataSourceNone/";

/// Less memory than any guest can use, in bytes: a forgotten unit.
const MEMORY_MIN: u64 = 16 << 20;

pub(super) fn build(checked: Checked, sources: &Sources<'_>, problems: &mut Vec<Problem>) -> (Setup, Values) {
    let mut build = Build {
        checked,
        keys: sources.keys,
        base: sources.base,
        private_networks: sources.private_networks,
        env: sources.env,
        backends: sources.backends,
        problems,
        values: Values::new(),
    };
    let host = build.host();
    let shared = ForAllGuests { catalogue: host.images.catalogue.clone(), troubles: build.troubles() };
    let guests: Vec<Guest> = build
        .checked
        .guests
        .clone()
        .iter()
        .filter_map(|(name, origin)| build.guest(name, origin, sources, &shared))
        .collect();
    let suites: Vec<Suite> = build
        .checked
        .suites
        .clone()
        .iter()
        .filter_map(|(name, origin, cases)| build.suite(name, origin, cases, &guests, &shared.troubles))
        .collect();
    // Has had its effect already, and is shown like every value.
    let _ = build.value("compat.env", "compat.env");
    let cockpit = build.table("cockpit");
    let keys = build.table("keys");
    let values = std::mem::take(&mut build.values);
    let mut notes = std::mem::take(&mut build.checked.notes);
    notes.extend(script_notes::of_setup(&guests, &suites));
    let left_out = std::mem::take(&mut build.checked.left_out);
    let folder = sources.base.to_owned();
    let file = sources.file.map(|(path, _)| path.to_owned());
    let (troubles, quarantine) = (shared.troubles, Quarantine::default());
    let digest = String::new();
    (Setup { file, folder, host, guests, suites, cockpit, keys, troubles, quarantine, notes, digest, left_out }, values)
}

/// What the config says for all guests.
struct ForAllGuests {
    catalogue: Catalogue,
    troubles: Vec<TroubleKind>,
}

fn home() -> Option<PathBuf> {
    etcetera::home_dir().ok()
}

/// Returns whether a folder of the guest may be replaced as a whole: a short path would take a system down.
fn may_be_replaced(folder: &str, os: Os) -> bool {
    let bytes = folder.as_bytes();
    let (is_absolute, separators): (bool, &[char]) = match os {
        Os::Windows => {
            let has_drive = bytes.len() > 3 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':';
            // A listener in front of another system has that system's paths.
            (has_drive && matches!(bytes[2], b'\\' | b'/') || folder.starts_with('/'), &['/', '\\'])
        }
        Os::Linux | Os::Macos => (folder.starts_with('/'), &['/']),
    };
    let parts: Vec<&str> = folder.split(separators).filter(|part| !part.is_empty()).collect();
    let depth = parts.len() - usize::from(parts.first().is_some_and(|part| part.ends_with(':')));
    is_absolute && depth >= 2 && !parts.contains(&"..")
}

/// Returns the processor of a guest, by the name of the program that is its machine; without one this host's.
fn arch_of(program: Option<&str>) -> String {
    let known = ["aarch64", "x86_64"].into_iter().find(|arch| program.is_some_and(|program| program.contains(arch)));
    known.unwrap_or(std::env::consts::ARCH).to_owned()
}

pub(super) struct Build<'a> {
    pub(super) checked: Checked,
    pub(super) keys: &'a [Key],
    pub(super) base: &'a Path,
    /// The backends whose machines can be in a private network with others.
    pub(super) private_networks: &'a [&'static str],
    /// The kinds of backends.
    pub(super) backends: &'a [&'a str],
    /// vmdeck's own environment.
    pub(super) env: &'a BTreeMap<String, String>,
    problems: &'a mut Vec<Problem>,
    values: Values,
}

impl Build<'_> {
    /// A mistake at this key: where the key itself was written, else at `origin`.
    pub(super) fn problem(&mut self, origin: &Origin, key: &str, text: impl Into<String>, hint: Option<&str>) {
        let origin = self.checked.values.get(key).map_or(origin, |(_, at)| at);
        self.problems.push(Problem {
            place: origin.to_string(),
            key: key.into(),
            text: text.into(),
            hint: hint.map(str::to_owned),
        });
    }

    /// Returns whether a mistake was found at this key.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// Returns how many mistakes were found so far.
    pub(super) fn problem_count(&self) -> usize {
        self.problems.len()
    }

    /// Notes what a person should know although nothing is wrong, once.
    pub(super) fn note(&mut self, text: String) {
        if !self.checked.notes.contains(&text) {
            self.checked.notes.push(text);
        }
    }

    /// Returns the value at `path` of the key `pattern`: as written, else from `[defaults]`, else built in.
    pub(super) fn value(&mut self, path: &str, pattern: &str) -> Option<Value> {
        let of_guests = pattern.strip_prefix("guests.*.").map(|rest| format!("defaults.{rest}"));
        let has = |path: &str| self.keys.iter().any(|key| key.path == path);
        let defaults = of_guests.or_else(|| case_defaults::path_of(pattern, has));
        let written = self.checked.values.get(path).or_else(|| defaults.and_then(|d| self.checked.values.get(&d)));
        let (value, place) = if let Some((value, origin)) = written {
            (value.clone(), origin.to_string())
        } else {
            let text = self.keys.iter().find(|k| k.path == pattern)?;
            let node = tree::loose(text.default?, &Origin::Nowhere);
            (check::convert(text.kind, &node).ok()?, "default".to_owned())
        };
        let value = match value {
            Value::Path(path) => Value::Path(self.resolve_path(&path)),
            value => value,
        };
        self.values.insert(path.to_owned(), (value.clone(), place));
        Some(value)
    }

    /// Returns a path that is relative to the config's folder, or below the home, as an absolute one.
    pub(super) fn resolve_path(&self, path: &Path) -> PathBuf {
        match (path.strip_prefix("~"), home()) {
            (Ok(below), Some(home)) => home.join(below),
            _ => self.base.join(path),
        }
    }

    /// Returns the names of the kinds of trouble that the config speaks of.
    pub(super) fn trouble_names(&self) -> Vec<(String, Origin)> {
        self.checked.troubles.clone()
    }

    /// Returns the names that the config gives to images.
    pub(super) fn catalogue_names(&self) -> Vec<(String, Origin)> {
        self.checked.catalogue.clone()
    }

    /// Returns the value that is written at this very place.
    pub(super) fn written(&self, path: &str) -> Option<&Value> {
        self.checked.values.get(path).map(|(value, _)| value)
    }

    pub(super) fn is_written(&self, path: &str) -> bool {
        self.written(path).is_some()
    }

    /// Returns a number that may be unset.
    pub(super) fn count(&mut self, path: &str, pattern: &str) -> Option<u32> {
        match self.value(path, pattern) {
            Some(Value::Int(count)) => u32::try_from(count).ok(),
            _ => None,
        }
    }

    pub(super) fn shell(&mut self, path: &str, pattern: &str) -> Option<ScriptShell> {
        if let Some(Value::Shell(shell)) = self.value(path, pattern) { Some(shell) } else { None }
    }

    pub(super) fn text(&mut self, path: &str, pattern: &str) -> Option<String> {
        if let Some(Value::Text(text)) = self.value(path, pattern) { Some(text) } else { None }
    }

    pub(super) fn path(&mut self, path: &str, pattern: &str) -> Option<PathBuf> {
        if let Some(Value::Path(value)) = self.value(path, pattern) { Some(value) } else { None }
    }

    pub(super) fn texts(&mut self, path: &str, pattern: &str) -> Vec<String> {
        if let Some(Value::Texts(texts)) = self.value(path, pattern) { texts } else { Vec::new() }
    }

    pub(super) fn duration(&mut self, path: &str, pattern: &str) -> Option<Duration> {
        if let Some(Value::Duration(time)) = self.value(path, pattern) { Some(time) } else { None }
    }

    pub(super) fn number(&mut self, path: &str, pattern: &str) -> u32 {
        self.count(path, pattern).unwrap_or(0)
    }

    /// Returns whether something is to be so.
    pub(super) fn flag(&mut self, path: &str, pattern: &str) -> bool {
        self.value(path, pattern) == Some(Value::Bool(true))
    }

    fn patterns(&mut self, path: &str, pattern: &str) -> Vec<Pattern> {
        if let Some(Value::Patterns(all)) = self.value(path, pattern) { all } else { Vec::new() }
    }

    fn guest(&mut self, name: &str, origin: &Origin, sources: &Sources<'_>, shared: &ForAllGuests) -> Option<Guest> {
        let id = match GuestId::new(name) {
            Ok(id) => id,
            Err(e) => {
                self.problem(origin, &format!("guests.{name}"), e.to_string(), None);
                return None;
            }
        };
        let full = |key: &str| format!("guests.{name}.{key}");
        let any = |key: &str| format!("guests.*.{key}");
        let Some(backend) = self.text(&full("backend"), &any("backend")) else {
            self.problem(
                origin,
                &full("backend"),
                "it is missing",
                Some(&format!("one of {}", sources.backends.join(", "))),
            );
            return None;
        };
        if !sources.backends.contains(&backend.as_str()) {
            let known = sources.backends.join(", ");
            self.problem(origin, &full("backend"), format!("unknown backend `{backend}` (known: {known})"), None);
            return None;
        }
        let os = match self.text(&full("os"), &any("os")).as_deref() {
            Some("windows") => Os::Windows,
            Some("macos") => Os::Macos,
            _ => Os::Linux,
        };
        let size = |build: &mut Self, key: &str| {
            if let Some(Value::Size(size)) = build.value(&full(key), &any(key)) { size } else { 0 }
        };
        let pattern = if let Some(Value::Pattern(p)) = self.value(&full("boot.pattern"), &any("boot.pattern")) {
            Some(p)
        } else {
            None
        };
        if size(self, "memory") < MEMORY_MIN {
            let text = "it is less than 16MiB; a bare number is bytes";
            self.problem(origin, &full("memory"), text, Some("write a unit: \"256MiB\""));
        }
        for key in ["boot_timeout", "case_timeout", "transport_turn", "shutdown_timeout"] {
            if self.duration(&full(key), &any(key)) == Some(Duration::ZERO) {
                self.problem(origin, &full(key), "it must be longer than 0", Some("write it like \"90s\""));
            }
        }
        let image = self.image(name, origin, &backend, &shared.catalogue);
        let mut errors = self.patterns(&full("boot.errors"), &any("boot.errors"));
        let seed = self.seed(name, origin, image.as_ref());
        let firmware = self.firmware(name, origin, &backend, image.as_ref());
        if image == Some(Image::Host) {
            errors.extend(Pattern::parse(INIT_FAILED));
        }
        if image.as_ref().is_some_and(|image| *image != Image::Host) {
            errors.extend(NO_DISK.iter().filter_map(|pattern| Pattern::parse(pattern).ok()));
        }
        if seed == Seed::CloudInit {
            errors.extend(Pattern::parse(NO_SEED));
        }
        let user_data = self.user_data(name, origin, seed);
        let trouble = self.troubles_of(name, origin, os, &shared.troubles);
        let options = self.options(name, &backend);
        Some(Guest {
            key: id.clone(),
            arch: arch_of(options.text("binary")),
            os,
            trouble,
            cpus: self.number(&full("cpus"), &any("cpus")),
            memory: size(self, "memory"),
            disk: size(self, "disk"),
            machine: self.text(&full("machine"), &any("machine")),
            address: self.text(&full("address"), &any("address")),
            power: PowerHooks {
                on: self.text(&full("power.on"), &any("power.on")),
                off: self.text(&full("power.off"), &any("power.off")),
                status: self.text(&full("power.status"), &any("power.status")),
            },
            transports: self.transports(name, origin, os, &backend, image.as_ref(), sources),
            shares: self.shares(name, origin, &backend, os),
            seed,
            user_data,
            save_disk: None,
            firmware,
            tpm: self.flag(&full("tpm"), &any("tpm")),
            transport_turn: self.duration(&full("transport_turn"), &any("transport_turn")).unwrap_or_default(),
            fresh: match self.text(&full("fresh"), &any("fresh")).as_deref() {
                Some("case") => Fresh::Case,
                Some("suite") => Fresh::Suite,
                _ => Fresh::Run,
            },
            checkpoint: self
                .text(&full("checkpoint"), &any("checkpoint"))
                .map_or(Checkpoint::Never, |word| Checkpoint::of_word(&word)),
            workers: match self.value(&full("workers"), &any("workers")) {
                Some(Value::CountOrAuto(workers)) => workers,
                _ => Workers::Count(1),
            },
            one_more_of: None,
            snapshot: self.text(&full("snapshot"), &any("snapshot")).and_then(|word| SnapshotPoint::of_word(&word)),
            vmlinux: self.path(&full("vmlinux"), &any("vmlinux")),
            launch_retries: self.number(&full("launch_retries"), &any("launch_retries")),
            boot_timeout: self.duration(&full("boot_timeout"), &any("boot_timeout")).unwrap_or_default(),
            case_timeout: self.duration(&full("case_timeout"), &any("case_timeout")).unwrap_or_default(),
            boot: ConsolePatterns {
                pattern,
                errors,
                warnings: self.patterns(&full("boot.warnings"), &any("boot.warnings")),
                watchdog: self.number(&full("boot.watchdog"), &any("boot.watchdog")),
                restarts: self.count(&full("boot.restarts"), &any("boot.restarts")),
            },
            shell: self.shell(&full("shell"), &any("shell")).unwrap_or_default(),
            crash: match self.text(&full("crash"), &any("crash")).as_deref() {
                Some("infra") => CrashPolicy::Infra,
                _ => CrashPolicy::Failed,
            },
            first_boot: match self.text(&full("first_boot"), &any("first_boot")).as_deref() {
                Some("warn") => FirstBoot::Warned,
                Some("ignore") => FirstBoot::Ignored,
                _ => FirstBoot::Required,
            },
            network: match self.text(&full("network"), &any("network")).as_deref() {
                Some("restricted") => Network::Restricted,
                Some("none") => Network::None,
                _ => Network::User,
            },
            survivors: match self.text(&full("survivors"), &any("survivors")).as_deref() {
                Some("keep") => SurvivorPolicy::Keep,
                _ => SurvivorPolicy::Replace,
            },
            shutdown: self
                .text(&full("shutdown"), &any("shutdown"))
                .map_or(Shutdown::Quit, |word| Shutdown::of_word(&word)),
            shutdown_timeout: self.duration(&full("shutdown_timeout"), &any("shutdown_timeout")).unwrap_or_default(),
            sudo: self.secret(name, "sudo.password"),
            source: self.source(name, origin, os),
            options,
            transport_options: sources
                .transports
                .iter()
                .map(|kind| ((*kind).to_owned(), self.transport_options(name, kind, image.as_ref())))
                .collect(),
            image,
            id,
            backend,
        })
    }

    fn transports(
        &mut self,
        name: &str,
        origin: &Origin,
        os: Os,
        backend: &str,
        image: Option<&Image>,
        sources: &Sources<'_>,
    ) -> Vec<String> {
        let path = format!("guests.{name}.transports");
        let written = self.texts(&path, "guests.*.transports");
        if written.is_empty() {
            let usual = if image == Some(&Image::Host) { HOST_TRANSPORTS } else { os.transports() };
            // Few images have QEMU's agent, and a wait for one that never comes would hide why ssh does not work.
            let is_usual = |kind: &&&str| sources.transports.contains(kind) && (**kind != "exec" || backend != BACKEND);
            return usual.iter().filter(is_usual).map(|kind| (*kind).to_owned()).collect();
        }
        for kind in &written {
            if !sources.transports.contains(&kind.as_str()) {
                let known = sources.transports.join(", ");
                self.problem(origin, &path, format!("unknown transport `{kind}` (known: {known})"), None);
            }
        }
        written
    }

    fn secret(&mut self, guest: &str, key: &str) -> Option<Secret> {
        let path = format!("guests.{guest}.{key}");
        let value = self.value(&path, &format!("guests.*.{key}"));
        if let Some(Value::Secret(secret)) = value { Some(secret) } else { None }
    }

    fn source(&mut self, guest: &str, origin: &Origin, os: Os) -> Option<Source> {
        let full = |key: &str| format!("guests.{guest}.source.{key}");
        let path = self.value(&full("path"), "guests.*.source.path");
        let to = self.text(&full("to"), "guests.*.source.to");
        let exclude = self.texts(&full("exclude"), "guests.*.source.exclude");
        match (path, to) {
            (Some(Value::Path(path)), Some(to)) => {
                if !may_be_replaced(&to, os) {
                    let example = if os == Os::Windows { r"C:\src\app" } else { "/home/ci/src" };
                    self.problem(
                        origin,
                        &full("to"),
                        format!("`{to}` is not a safe folder to replace"),
                        Some(&format!("give an absolute path at least two levels deep, like {example}")),
                    );
                }
                let inner = to.trim_end_matches(['/', '\\']);
                Some(Source { path, to: inner.to_owned(), exclude })
            }
            (None, None) => None,
            _ => {
                self.problem(origin, &full("path"), "`source.path` and `source.to` go together", None);
                None
            }
        }
    }

    /// Returns the keys of a table of its own, by their names in it.
    fn table(&mut self, name: &str) -> Options {
        let prefix = format!("{name}.");
        let mut out = Options::default();
        for (path, key) in self.keys.iter().filter_map(|k| k.path.strip_prefix(&prefix).map(|rest| (k.path, rest))) {
            if let Some(value) = self.value(path, path) {
                out.set(key, value);
            }
        }
        out
    }

    /// Returns the keys of a transport's own table; the user is the image's own where the config names none.
    fn transport_options(&mut self, guest: &str, kind: &str, image: Option<&Image>) -> Options {
        let mut out = self.options(guest, kind);
        let is_written = ["guests.".to_owned() + guest, "defaults".to_owned()]
            .iter()
            .any(|table| self.is_written(&format!("{table}.{kind}.user")));
        if let Some(Image::Named(named)) = image
            && let Some(user) = named.entry.user.clone().filter(|_| kind == "ssh" && !is_written)
        {
            self.take_over(&format!("guests.{guest}.{kind}.user"), &user, &named.name);
            out.set("user", Value::Text(user));
        }
        // The user's own settings for the host name one, too.
        if kind == "ssh" && out.path("config").is_some() && !is_written {
            out = out.without("user");
        }
        out
    }

    /// Shows a value that the catalogue has given.
    pub(super) fn take_over(&mut self, path: &str, text: &str, name: &str) {
        self.values.insert(path.to_owned(), (Value::Text(text.to_owned()), format!("the image {name}")));
    }

    /// Returns the keys of a backend's or transport's own table.
    fn options(&mut self, guest: &str, kind: &str) -> Options {
        let prefix = format!("guests.*.{kind}.");
        let mut out = Options::default();
        for pattern in self.keys.iter().filter_map(|k| k.path.strip_prefix(&prefix).map(|rest| (k.path, rest))) {
            if let Some(value) = self.value(&format!("guests.{guest}.{kind}.{}", pattern.1), pattern.0) {
                out.set(pattern.1, value);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deep_folder_is_replaced_as_a_whole() {
        for (folder, os, good) in [
            ("/home/ci/src", Os::Linux, true),
            ("/home/ci", Os::Linux, true),
            ("/home", Os::Linux, false),
            ("home/ci/src", Os::Linux, false),
            ("/home/../etc", Os::Linux, false),
            (r"C:\src\app", Os::Linux, false),
            (r"C:\src\app", Os::Windows, true),
            ("c:/src/app/", Os::Windows, true),
            (r"C:\src", Os::Windows, false),
            (r"C:\", Os::Windows, false),
            (r"C:src\app", Os::Windows, false),
            (r"C:\src\..\Windows", Os::Windows, false),
            (r"\\server\share\x", Os::Windows, false),
            ("/srv/app", Os::Windows, true),
        ] {
            assert_eq!(may_be_replaced(folder, os), good, "{folder}");
        }
    }
}
