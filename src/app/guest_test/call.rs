//! What one call of `vmdeck guest-test` asks for, and the files that it means.

use crate::{
    app::framework::{Config, WantedMachine, record},
    cli::GuestTestArgs,
};
use std::path::{Component, Path, PathBuf};
use vmdeck_model::error::{Fault, Result};

/// A call, with its words checked.
#[derive(Clone, Debug)]
pub(in crate::app) struct Call {
    pub(super) args: GuestTestArgs,
}

fn refuse(what: &str, why: &str) -> Fault {
    Fault::user(format!("cannot use {what}")).because(why)
}

impl Call {
    /// Takes arguments; a text that could not be recorded is refused.
    pub(in crate::app) fn new(args: GuestTestArgs) -> Result<Self> {
        for (flag, text) in [
            ("-x", &args.testcase),
            ("-c", &args.cmdline),
            ("-e", &args.feature_path),
            ("-f", &args.feature),
            ("-i", &args.common),
            ("-j", &args.qemu),
            ("-r", &args.rpm),
            ("-t", &args.vm_type),
        ] {
            if text.as_ref().is_some_and(|text| text.chars().any(char::is_control)) {
                return Err(refuse(flag, "a text of several lines, or with control characters, cannot be recorded"));
            }
        }
        // They are recorded as they are, and a shell reads the record.
        for (flag, text) in [("-v", &args.cpus), ("-s", &args.sockets), ("-m", &args.memory)] {
            let is_number = |text: &String| text.parse::<u32>().is_ok_and(|n| n > 0) && !text.starts_with('+');
            if let Some(text) = text.as_ref().filter(|text| !is_number(text)) {
                let unit = if flag == "-m" { " of GB, without a unit" } else { "" };
                return Err(refuse(
                    &format!("{flag} `{}`", text.escape_debug()),
                    &format!("it must be a whole number{unit}, from 1 on"),
                ));
            }
        }
        for (flag, text) in [("-d", &args.debug), ("-p", &args.pmu)] {
            if let Some(text) = text.as_ref().filter(|text| !["on", "off", "true", "false"].contains(&text.as_str())) {
                return Err(refuse(&format!("{flag} `{}`", text.escape_debug()), "it must be `on` or `off`"));
            }
        }
        let mut args = args;
        if let Some(path) = args.feature_path.clone().or_else(|| args.feature.clone()) {
            let is_inside = Path::new(&path).components().all(|part| matches!(part, Component::Normal(_)));
            if path.is_empty() || !is_inside {
                return Err(refuse(&format!("-e `{path}`"), "it names a folder beside guest-test, without `..`"));
            }
            if args.feature_path.is_none() {
                // A folder of the feature's own name.
                args.given.push("FEATURE_PATH");
                args.feature_path = Some(path);
            }
        }
        Ok(Self { args })
    }

    /// Returns the test case; the framework does nothing without one.
    pub(in crate::app) fn testcase(&self) -> Result<&str> {
        let named = self.args.testcase.as_deref().filter(|name| !name.trim().is_empty());
        named.ok_or_else(|| Fault::user("no test case is named").hint("give one: -x CASE"))
    }

    /// Reads the words of a command line.
    #[cfg(test)]
    pub(in crate::app) fn parse(words: &[String]) -> Result<Self> {
        let args = GuestTestArgs::read(words.iter().cloned()).map_err(|e| Fault::user(e.to_string()))?;
        Self::new(args)
    }

    /// Returns whether the machine stays for the collection of coverage.
    pub(super) fn keeps(&self) -> bool {
        self.args.gcov.as_deref() == Some("on")
    }

    /// Returns what the flags ask for.
    pub(in crate::app) fn wanted(&self) -> WantedMachine {
        let GuestTestArgs { cpus, sockets, memory, debug, vm_type, cmdline, pmu, gcov, .. } = self.args.clone();
        WantedMachine { cpus, sockets, memory, debug, kind: vm_type, cmdline, pmu, gcov }
    }

    /// Reads the config in the folder of the scripts.
    pub(in crate::app) fn config(&self, folder: &Path) -> Result<Config> {
        let named = |name: &Option<String>, usual: &str| folder.join(name.as_deref().unwrap_or(usual));
        let common = named(&self.args.common, "common.json");
        if self.args.common.is_some() && !common.is_file() {
            return Err(refuse(&format!("-i `{}`", common.display()), "there is no such file"));
        }
        let common = common.exists().then_some(common);
        Config::read(&named(&self.args.qemu, "qemu.config.json"), common.as_deref())
    }

    /// Returns the lines of `test_params.py`: the port, and the flags that were given.
    pub(in crate::app) fn record(&self, port: u16) -> Vec<String> {
        let flags = self.args.given.iter().map(|name| {
            let (value, is_number) = self.recorded(name);
            record(name, &value, is_number)
        });
        std::iter::once(record("PORT", &port.to_string(), true)).chain(flags).collect()
    }

    /// Returns the value of a flag, and whether it is recorded as a number.
    fn recorded(&self, name: &str) -> (String, bool) {
        let args = &self.args;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let number = |value: &Option<String>| {
            let text = text(value);
            let bare = text.trim_start_matches('0');
            (if bare.is_empty() { text.clone() } else { bare.to_owned() }, true)
        };
        match name {
            "VCPU" => number(&args.cpus),
            "SOCKETS" => number(&args.sockets),
            "MEM" => number(&args.memory),
            "KEXEC_CNT" => (args.kexec.unwrap_or_default().to_string(), true),
            "DEBUG" => (text(&args.debug), false),
            "VM_TYPE" => (text(&args.vm_type), false),
            "FEATURE_PATH" => (text(&args.feature_path), false),
            "FEATURE" => (text(&args.feature), false),
            "TESTCASE" => (text(&args.testcase), false),
            "CMDLINE" => (text(&args.cmdline), false),
            "PMU" => (text(&args.pmu), false),
            "GCOV" => (text(&args.gcov), false),
            "JSON_C" => (text(&args.common), false),
            "JSON_Q" => (text(&args.qemu), false),
            "RPM" => (text(&args.rpm), false),
            _ => (text(&args.mem_drain), false),
        }
    }

    /// Returns the folder of the scripts.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        let file = self.args.qemu.as_deref().unwrap_or("qemu.config.json");
        let usual = [".", "guest-test", "BM/guest-test"].map(PathBuf::from);
        let folder = match &self.args.dir {
            Some(dir) => Some(dir.clone()),
            None => usual.into_iter().find(|folder| folder.join(file).is_file()),
        };
        let missing = || {
            Fault::user("cannot find the scripts of the guest-test framework")
                .because(format!("there is no `{file}` here, nor in guest-test"))
                .hint("call it in the folder guest-test, or give --dir")
        };
        let folder = folder.ok_or_else(missing)?;
        std::fs::canonicalize(&folder).map_err(|e| Fault::user(format!("cannot use `{}`", folder.display())).because(e))
    }
}
