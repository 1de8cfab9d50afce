//! The machine that a config and the flags describe: QEMU's arguments as the framework would give them.
//!
//! The rules are those of the framework, with its traps taken out: what is filled in is one word, values are apart from each other,
//! and what is missing and not needed is left out.

use super::{
    config::{Config, Form, cannot},
    words::{Names, ShellWord, fill, has_template, split},
};
use std::path::Path;
use vmdeck_model::error::{Fault, Result};

/// The kinds of machine, each with the groups that it is made of.
const KINDS: [(&str, &[&str]); 4] =
    [("legacy", &["vm"]), ("tdx", &["vm", "tdx"]), ("tdxio", &["vm", "tdx", "tdxio"]), ("vfio_pt", &["vm"])];
/// What the framework calls a file that is not there.
const NOT_USED: &str = "not_use";
/// How far the port of the monitor is below that of ssh.
const MONITOR: u16 = 1000;

/// What the flags ask for instead of the config's values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::app) struct WantedMachine {
    pub(in crate::app) cpus: Option<String>,
    pub(in crate::app) sockets: Option<String>,
    pub(in crate::app) memory: Option<String>,
    pub(in crate::app) debug: Option<String>,
    pub(in crate::app) kind: Option<String>,
    pub(in crate::app) cmdline: Option<String>,
    pub(in crate::app) pmu: Option<String>,
    pub(in crate::app) gcov: Option<String>,
}

/// A machine, as the framework would start it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app) struct FrameworkMachine {
    /// A word of [`KINDS`].
    pub(in crate::app) kind: &'static str,
    /// The number of processors; `None` = the config has none, because nothing in it asks for one.
    pub(in crate::app) cpus: Option<u32>,
    /// The memory in GiB, likewise.
    pub(in crate::app) memory: Option<u32>,
    /// The QEMU binary.
    pub(in crate::app) binary: String,
    /// Its arguments.
    pub(in crate::app) arguments: Vec<String>,
    /// The pattern on the console that shows that the guest is up, a glob of bash.
    pub(in crate::app) boot_pattern: Option<String>,
    /// The password of root.
    pub(in crate::app) password: Option<String>,
    /// The values of the flags, from the flag or from the config: the name in the record, and the text.
    pub(in crate::app) parameters: Vec<(&'static str, String)>,
    /// The variables that executors see, without the password.
    pub(in crate::app) exported: Vec<(&'static str, String)>,
    /// What a person should know although it does no harm.
    pub(in crate::app) notes: Vec<String>,
}

/// A value that stands for a template: the flag's, else the file's.
struct TemplateValues<'a> {
    config: &'a Config,
    wanted: &'a WantedMachine,
}

/// The key of the config and the flag that give a template its value.
const SOURCES: [(&str, &str, &str); 6] = [
    ("VCPU", "cpus", "-v"),
    ("SOCKETS", "sockets", "-s"),
    ("MEM", "mem", "-m"),
    ("DEBUG", "debug", "-d"),
    ("PMU", "pmu", "-p"),
    ("CMDLINE", "cmdline", "-c"),
];

impl TemplateValues<'_> {
    fn given(&self, key: &str) -> Option<&str> {
        let WantedMachine { cpus, sockets, memory, debug, kind, cmdline, pmu, .. } = self.wanted;
        let value = match key {
            "vm_type" => kind,
            "pmu" => pmu,
            "cpus" => cpus,
            "sockets" => sockets,
            "mem" => memory,
            "cmdline" => cmdline,
            _ => debug,
        };
        value.as_deref()
    }

    fn find(&self, key: &str) -> Option<&str> {
        self.given(key).or_else(|| self.config.value(key))
    }

    /// Returns a value that is needed.
    fn need(&self, key: &str, flag: &str) -> Result<&str> {
        self.find(key).ok_or_else(|| {
            cannot(&self.config.path)
                .because(format!("there is no `{key}`"))
                .hint(format!("add `common.{key}`, or give {flag}"))
        })
    }

    /// Returns a number that is needed.
    fn number(&self, key: &str, flag: &str) -> Result<String> {
        let text = self.need(key, flag)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u32>().ok().filter(|number| digits && *number > 0);
        let Some(number) = number else {
            let unit = if key == "mem" { " of GB, without a unit," } else { "" };
            let fault = match self.given(key) {
                Some(_) => Fault::user(format!("cannot use {flag} `{text}`")),
                None => cannot(&self.config.path).because(format!("`common.{key}` = `{text}`")),
            };
            return Err(fault.because(format!("it must be a whole number{unit} from 1 on")));
        };
        // A leading zero of a flag is not meant for QEMU.
        Ok(if self.given(key).is_some() { number.to_string() } else { text.to_owned() })
    }

    /// Returns a word that switches something.
    fn switch(&self, key: &str, flag: &str) -> Result<String> {
        let text = self.need(key, flag)?;
        if ["on", "off", "true", "false"].contains(&text) {
            return Ok(text.to_owned());
        }
        let fault = match self.given(key) {
            Some(_) => Fault::user(format!("cannot use {flag} `{text}`")),
            None => cannot(&self.config.path).because(format!("`common.{key}` = `{text}`")),
        };
        Err(fault.because("it must be `on` or `off`"))
    }

    fn kind(&self) -> Result<(&'static str, &'static [&'static str])> {
        let text = self.need("vm_type", "-t")?;
        KINDS.iter().find(|(kind, _)| *kind == text).copied().ok_or_else(|| {
            let known: Vec<String> = KINDS.iter().map(|(kind, _)| format!("`{kind}`")).collect();
            let fault = match self.given("vm_type") {
                Some(_) => Fault::user(format!("cannot use -t `{text}`")),
                None => cannot(&self.config.path).because(format!("`common.vm_type` = `{text}`")),
            };
            fault.because(format!("it is no kind of machine (known: {})", known.join(", ")))
        })
    }
}

/// The files of a config as they are for the templates.
struct ImageFiles {
    kernel: (String, bool),
    initrd: (String, bool),
    firmware: (String, bool),
}

impl ImageFiles {
    fn of(config: &Config, is_file: &dyn Fn(&Path) -> bool) -> Self {
        let file = |key: &str| {
            let path = config.value(key).unwrap_or(NOT_USED);
            let is_there = path != NOT_USED && is_file(Path::new(path));
            let text = if is_there || config.form == Form::Old { path } else { NOT_USED };
            (text.to_owned(), is_there)
        };
        Self { kernel: file("kernel_img"), initrd: file("initrd_img"), firmware: file("bios_img") }
    }
}

impl FrameworkMachine {
    /// Returns the machine of a config and flags. `port` = that of ssh on this host; `is_file` = what exists.
    pub(in crate::app) fn of(
        config: &Config,
        wanted: &WantedMachine,
        port: u16,
        is_file: &dyn Fn(&Path) -> bool,
    ) -> Result<Self> {
        let values = TemplateValues { config, wanted };
        let (kind, groups) = values.kind()?;
        let files = ImageFiles::of(config, is_file);
        let text = |key: &str| config.value(key).unwrap_or(NOT_USED).to_owned();
        let exported = vec![
            ("KERNEL_IMG", files.kernel.0.clone()),
            ("INITRD_IMG", files.initrd.0.clone()),
            ("BIOS_IMG", files.firmware.0.clone()),
            ("QEMU_IMG", text("qemu_img")),
            ("GUEST_IMG", text("guest_img")),
            ("GUEST_IMG_FORMAT", text("guest_img_format")),
            ("BOOT_PATTERN", text("boot_pattern")),
            ("PORT", port.to_string()),
            ("GCOV", wanted.gcov.clone().unwrap_or_else(|| "off".into())),
        ];
        let binary = config.value("qemu_img").filter(|text| !text.is_empty()).ok_or_else(|| {
            cannot(&config.path)
                .because("there is no `qemu_img`, neither here nor in a common.json beside it")
                .hint("name the QEMU binary in common.json, or another file with -i")
        })?;
        let mut builder = ArgumentBuilder {
            values,
            kind,
            port,
            files,
            exported: &exported,
            notes: Vec::new(),
            arguments: Vec::new(),
        };
        for group in groups {
            let rows = config.group(group).ok_or_else(|| {
                cannot(&config.path)
                    .because(format!("there is no group `{group}`, which a machine of the kind `{kind}` needs"))
            })?;
            builder.note_missing(group, rows);
            for (key, text) in rows {
                builder.row(group, key, text)?;
            }
        }
        let ArgumentBuilder { values, arguments, mut notes, .. } = builder;
        if wanted.cmdline.as_deref().is_some_and(|text| !text.trim().is_empty())
            && !config.group("vm").into_iter().flatten().any(|(_, text)| text.contains("$CMDLINE"))
        {
            notes.push("the kernel arguments of -c have no place: no text of the config holds $CMDLINE".into());
        }
        let number = |key: &str, flag: &str| values.number(key, flag).ok().and_then(|text| text.parse().ok());
        let (cpus, memory) = (number("cpus", "-v"), number("mem", "-m"));
        let parameters = SOURCES.iter().map(|(name, key, _)| (*name, values.find(key).unwrap_or_default().to_owned()));
        Ok(Self {
            kind,
            cpus,
            memory,
            binary: binary.to_owned(),
            arguments,
            boot_pattern: config.value("boot_pattern").map(str::to_owned),
            password: config.value("guest_root_passwd").filter(|text| !text.is_empty()).map(str::to_owned),
            parameters: parameters.collect(),
            exported,
            notes,
        })
    }

    /// Returns the whole argument list, the binary first.
    pub(in crate::app) fn argv(&self) -> Vec<&str> {
        std::iter::once(&self.binary).chain(&self.arguments).map(String::as_str).collect()
    }
}

/// Arguments that grow, row by row.
struct ArgumentBuilder<'a> {
    values: TemplateValues<'a>,
    kind: &'static str,
    port: u16,
    files: ImageFiles,
    exported: &'a [(&'static str, String)],
    notes: Vec<String>,
    arguments: Vec<String>,
}

/// Returns the names that are filled in a row of this key.
fn templates(group: &str, key: &str, kind: &str) -> &'static [&'static str] {
    if kind == "vfio_pt" {
        return if key == "cfg_5" { &["PORT"] } else { &[] };
    }
    match (group, key) {
        ("vm", "cfg_var_1") => &["VM_TYPE", "PORT"],
        ("vm", "cfg_var_2") => &["PMU"],
        ("vm", "cfg_var_3") => &["VCPU", "SOCKETS"],
        ("vm", "cfg_var_4") | ("tdx", "cfg_var_2") => &["MEM"],
        ("vm", "cfg_var_5") => &["KERNEL_IMG"],
        ("vm", "cfg_var_6") => &["INITRD_IMG"],
        ("vm", "cfg_var_7") => &["PORT"],
        // As in the framework, `$GUEST_IMG_FORMAT` is the first of them with `_FORMAT` behind it.
        ("vm", "cfg_var_8") => &["GUEST_IMG", "IMG_FORMAT"],
        ("vm", "cfg_var_9") => &["CMDLINE"],
        ("vm", "cfg_var_10") => &["BIOS_IMG"],
        ("vm", "cfg_var_11") => &["PORT_TEL"],
        ("tdx", "cfg_var_1") => &["DEBUG"],
        _ => &[],
    }
}

impl ArgumentBuilder<'_> {
    fn row(&mut self, group: &str, key: &str, text: &str) -> Result<()> {
        let wrong = |why: String| cannot(&self.values.config.path).because(format!("`{group}.{key}`: {why}"));
        let names = templates(group, key, self.kind);
        if self.is_dropped(group, key, text, names) {
            let files = [("cfg_var_5", "kernel_img"), ("cfg_var_6", "initrd_img"), ("cfg_var_10", "bios_img")];
            let file = files.iter().find(|(own, _)| *own == key).map(|(_, file)| *file);
            if let Some((file, path)) = file.and_then(|file| Some((file, self.values.config.value(file)?))) {
                self.notes.push(format!("`{file}` `{path}` is not there; `{}` is left out", text.trim()));
            }
            return Ok(());
        }
        let mut filled: Vec<(&'static str, String)> = Vec::new();
        for name in names.iter().filter(|name| has_template(text, &[**name])) {
            filled.push((*name, self.value(name)?));
        }
        let words: Vec<ShellWord> = split(text).map_err(wrong)?;
        if text.contains("$SSHPASS") || text.contains("${SSHPASS}") {
            return Err(wrong("a password has no place among the arguments of a process".into()));
        }
        let templates: Vec<(&'static str, &str)> = filled.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let exported = |name: &str| self.exported.iter().find(|(own, _)| *own == name).map(|(_, text)| text.clone());
        let names = Names { templates: &templates, exported: &exported };
        self.arguments.extend(words.iter().filter_map(|word| fill(word, &names)));
        Ok(())
    }

    /// Returns whether an option is left out because its file is not there.
    fn is_dropped(&self, group: &str, key: &str, text: &str, names: &[&str]) -> bool {
        if group != "vm" || self.kind == "vfio_pt" {
            return false;
        }
        let is_filled = has_template(text, names);
        let has_key = |key: &str| self.values.config.value(key).is_some();
        let is_new = self.values.config.form == Form::New;
        match key {
            // The older form keeps a kernel that is not there.
            "cfg_var_5" => is_filled && !self.files.kernel.1 && (is_new || !has_key("kernel_img")),
            "cfg_var_6" => is_filled && !self.files.initrd.1,
            "cfg_var_9" => {
                let rows = self.values.config.group("vm").unwrap_or_default();
                let kernel = rows.iter().find(|(key, _)| key == "cfg_var_5");
                let is_own = kernel.is_some_and(|(_, text)| !has_template(text, &["KERNEL_IMG"]));
                !self.files.kernel.1 && !is_own && (is_new || !has_key("kernel_img"))
            }
            "cfg_var_10" => is_filled && !self.files.firmware.1,
            _ => false,
        }
    }

    /// Returns the value of a template.
    fn value(&self, name: &str) -> Result<String> {
        let (key, flag) =
            SOURCES.iter().find(|(own, ..)| *own == name).map_or(("", ""), |(_, key, flag)| (*key, *flag));
        Ok(match name {
            "VM_TYPE" => self.kind.to_owned(),
            "PORT" => self.port.to_string(),
            "PORT_TEL" => self.port.saturating_sub(MONITOR).to_string(),
            "KERNEL_IMG" => self.files.kernel.0.clone(),
            "INITRD_IMG" => self.files.initrd.0.clone(),
            "BIOS_IMG" => self.files.firmware.0.clone(),
            "GUEST_IMG" => self.values.config.value("guest_img").unwrap_or(NOT_USED).to_owned(),
            "IMG_FORMAT" => self.values.config.value("guest_img_format").unwrap_or(NOT_USED).to_owned(),
            "CMDLINE" => self.values.need(key, flag)?.to_owned(),
            "PMU" | "DEBUG" => self.values.switch(key, flag)?,
            _ => self.values.number(key, flag)?,
        })
    }

    /// Notes the options that every config of the framework has, and this one has not.
    fn note_missing(&mut self, group: &str, rows: &[(String, String)]) {
        let last = match group {
            "vm" if self.kind != "vfio_pt" => 10,
            "tdx" => 2,
            _ => 0,
        };
        let missing: Vec<String> = (1..=last)
            .map(|number| format!("cfg_var_{number}"))
            .filter(|key| !rows.iter().any(|(own, _)| own == key))
            .map(|key| format!("`{group}.{key}`"))
            .collect();
        if !missing.is_empty() {
            self.notes.push(format!(
                "{} has no {}; the options are left out",
                self.values.config.path.display(),
                missing.join(", ")
            ));
        }
    }
}
