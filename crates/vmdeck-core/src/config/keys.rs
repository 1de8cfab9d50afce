//! The core keys of the config; those of suites are in `suite_keys`, backends and transports add theirs.
//!
//! A default here is the only place where it is written down.

use super::suite_keys::SUITES;
use vmdeck_model::{
    guest::{ShareBy, Shutdown},
    key::{Key, Kind},
    snapshot::{Checkpoint, SnapshotPoint},
    trouble::{TroubleEnd, TroubleSeverity},
};

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

/// The one backend that boots what `image` names.
pub(super) const BACKEND: &str = "qemu";

/// How a guest can be given what it needs at its first boot.
const SEEDS: &[&str] = &["auto", "cloud-init", "credentials", "ignition", "none"];

/// Returns every key that belongs to no backend or transport.
pub fn core() -> impl Iterator<Item = &'static Key> {
    CORE.iter().chain(SUITES)
}

/// The keys of the host and of guests. Those below `guests.*` are legal in `[defaults]` as well.
const CORE: &[Key] = &[
    key(
        "host.lock",
        Kind::Path,
        Some("\"/tmp/vmdeck.lock.d\""),
        "lock directory; runs with the same one exclude each other",
    ),
    key(
        "host.lock_shared",
        Kind::Bool,
        None,
        "guard against the races of the old scripts; default: true if the path is theirs",
    ),
    key("host.lock_timeout", Kind::Duration, Some("\"5m\""), "how long to wait for the lock"),
    key("host.min_free_disk", Kind::Size, Some("\"10GiB\""), "free disk space below which preflight fails"),
    key("host.warn_free_disk", Kind::Size, Some("\"20GiB\""), "free disk space below which preflight warns"),
    key(
        "host.min_free_memory",
        Kind::Size,
        Some("\"2GiB\""),
        "memory to leave free besides what the guests of this run need",
    ),
    key(
        "host.memory",
        Kind::Size,
        None,
        "how much memory the guests of all vmdeck processes may have together; a guest waits until there is enough for it; default: \
         what the host has, without `min_free_memory`",
    ),
    key(
        "host.slots",
        Kind::Int(1, 64),
        Some("1"),
        "how many guests may be up at a time on this host, over all vmdeck processes",
    ),
    key(
        "host.log_size",
        Kind::Size,
        Some("\"64MiB\""),
        "how long a log in the record may become; of a longer one the beginning and the end are kept",
    ),
    key(
        "host.artifacts_size",
        Kind::Size,
        Some("\"16GiB\""),
        "how much all artifacts of a run may have; besides `artifacts_size` of a suite, which is for each time that some are fetched",
    ),
    key(
        "host.events_size",
        Kind::Size,
        Some("\"64MiB\""),
        "how much output events.jsonl may hold; further lines are only in the logs",
    ),
    key(
        "host.keep_records",
        Kind::Int(1, 100_000),
        None,
        "how many records in .vmdeck/runs are kept when a run has ended; default: all, see `vmdeck prune`",
    ),
    key(
        "host.keep_days",
        Kind::Int(1, 36_500),
        None,
        "how many days such records are kept; one that is pinned, that lives, or whose machine is still there, always stays",
    ),
    key("host.keep_size", Kind::Size, None, "how much such records may have in all; the newest stay"),
    key(
        "host.test_prefixes",
        Kind::Texts,
        Some("[]"),
        "prefixes of the names of test machines made by others: `vmdeck cleanup --all` removes those",
    ),
    key("images.cache", Kind::Path, None, "folder of the cache of images; default: in the user's cache folder"),
    key("images.offline", Kind::Bool, Some("false"), "fetch and build nothing: only what is in the cache is used"),
    key(
        "images.max_size",
        Kind::Size,
        None,
        "what the cache may take: beyond it, images that nothing uses go, the oldest first; default: no limit",
    ),
    key(
        "snapshots.cache",
        Kind::Path,
        None,
        "folder of the snapshots of machines; default: in the user's cache folder",
    ),
    key(
        "snapshots.max_size",
        Kind::Size,
        Some("\"20GiB\""),
        "what the snapshots may take: beyond it, those that nothing uses go, the one that was used longest ago first",
    ),
    key("images.max_age", Kind::Duration, None, "how long an image that nothing uses is kept; default: for ever"),
    key(
        "images.mirror",
        Kind::Text,
        None,
        "address (https) that stands for the scheme and host of the catalogue's addresses, such as https://mirror.example/images",
    ),
    key("images.catalogue.*.versions", Kind::Map, None, "its versions, each with the word for it in addresses"),
    key(
        "images.catalogue.*.arch",
        Kind::Map,
        None,
        "its processors (x86_64, aarch64), each with the word for it in addresses",
    ),
    key(
        "images.catalogue.*.index",
        Kind::Text,
        None,
        "address of the page that lists what there is; with {release}, {version}, {arch}",
    ),
    key("images.catalogue.*.listed", Kind::Text, None, "what that page holds for each image; with {stamp} as well"),
    key(
        "images.catalogue.*.stamp",
        Kind::Text,
        None,
        "regular expression of {stamp}: the highest one is the newest image",
    ),
    key("images.catalogue.*.image", Kind::Text, None, "address of an image; required for a name of one's own"),
    key("images.catalogue.*.moving", Kind::Text, None, "address of the newest image, for where no page lists them"),
    key(
        "images.catalogue.*.sums",
        Kind::Text,
        None,
        "the file with digests, from the image's folder; with {file} as well; required for a name of one's own",
    ),
    key("images.catalogue.*.user", Kind::Text, None, "the user to log in as where `ssh.user` says nothing"),
    key("images.catalogue.*.shell", Kind::Text, None, "that user's shell; default: /bin/bash"),
    key("images.catalogue.*.seed", Kind::Choice(SEEDS), None, "`seed` of a guest that says nothing"),
    key("images.catalogue.*.firmware", Kind::Text, None, "`firmware` of a guest that says nothing"),
    key("images.catalogue.*.mirror", Kind::Text, None, "as `images.mirror`, for this name alone"),
    key(
        "compat.env",
        Kind::Texts,
        Some("[]"),
        "old variables that are read as well: trustinstall (TRUSTINSTALL_*), vm-tests (VM_LOCK_*); see docs/migrating.md",
    ),
    key(
        "trouble.*.pattern",
        Kind::Text,
        None,
        "regular expression, searched anywhere in a line of a console; required for a kind of one's own",
    ),
    key("trouble.*.category", Kind::Text, None, "what it is about; default: own"),
    key(
        "trouble.*.severity",
        Kind::Choice(TroubleSeverity::WORDS),
        None,
        "fail: the case during which it comes has failed; warn: it is reported; ignore; default: fail, or the kind's own",
    ),
    key(
        "trouble.*.ends",
        Kind::Choice(TroubleEnd::WORDS),
        None,
        "case: the running case ends at once, and the machine is replaced; run: the whole run as well; nothing: it is judged at its end; \
         default: nothing, or the kind's own",
    ),
    key("guests.*.backend", Kind::Text, None, "qemu | multipass | utm | local | fake; required"),
    key("guests.*.os", Kind::Choice(&["linux", "windows", "macos"]), Some("\"linux\""), "guest operating system"),
    key("guests.*.cpus", Kind::Int(1, 512), Some("2"), "virtual processors"),
    key("guests.*.memory", Kind::Size, Some("\"2GiB\""), "RAM for the guest"),
    key("guests.*.disk", Kind::Size, Some("\"10GiB\""), "size of the disk; a smaller base image is grown to this"),
    key(
        "guests.*.image",
        Kind::Image,
        None,
        "what a QEMU guest boots: a disk image, an address (https) of one, a name such as \"debian:12\", { build = \"debian:12\", packages = [], script = \"...\" } with `by = \"packages\"` or \
         `\"boot\"` = on any image, by booting it, or \"host\" = this host's own root, read-only below a writable layer in memory",
    ),
    key("guests.*.image_sha256", Kind::Text, None, "digest (SHA-256 or SHA-512) that a fetched image must have"),
    key(
        "guests.*.image_unverified",
        Kind::Bool,
        Some("false"),
        "fetch an image without `image_sha256`: what comes first is believed, and required from then on",
    ),
    key(
        "guests.*.seed",
        Kind::Choice(SEEDS),
        Some("\"auto\""),
        "how a guest with `image` gets a user, a key and a host key at its first boot: cloud-init, credentials (systemd from 252 on), auto \
         = both where `ssh` has no key, password or agent, ignition (Fedora CoreOS, Flatcar), none",
    ),
    key(
        "guests.*.user_data",
        Kind::Path,
        None,
        "what cloud-init (or Ignition) gets besides: a cloud-config, a script, or another form that it knows by the first line",
    ),
    key(
        "guests.*.firmware",
        Kind::Text,
        Some("\"auto\""),
        "bios, uefi, uefi-secure, the path of a firmware, or auto = what the image needs, as far as that can be told",
    ),
    key("guests.*.tpm", Kind::Bool, Some("false"), "a TPM 2.0 for the guest, by swtpm"),
    key("guests.*.shares.[].path", Kind::Path, None, "folder of this host that the guest sees; required"),
    key("guests.*.shares.[].to", Kind::Text, None, "absolute path in the guest; default: the same as on this host"),
    key(
        "guests.*.shares.[].read_only",
        Kind::Bool,
        None,
        "whether this host refuses the guest's writes; default: true",
    ),
    key(
        "guests.*.shares.[].by",
        Kind::Choice(ShareBy::WORDS),
        None,
        "9p, virtiofs, or auto = as the root is shared; default: auto",
    ),
    key("guests.*.machine", Kind::Text, None, "adopt this existing machine; it is stopped at most, never deleted"),
    key(
        "guests.*.address",
        Kind::Text,
        None,
        "name or IP address of a machine that vmdeck neither makes nor destroys; for backend = \"remote\"",
    ),
    key(
        "guests.*.power.on",
        Kind::HostCommand,
        None,
        "command of this host that switches such a machine on where it was found off; VMDECK_GUEST and VMDECK_ADDRESS are set",
    ),
    key(
        "guests.*.power.off",
        Kind::HostCommand,
        None,
        "command that switches it off again at the end, where it was found off",
    ),
    key(
        "guests.*.power.status",
        Kind::HostCommand,
        None,
        "command that exits with 0 where it is on, and 1 where it is off",
    ),
    key(
        "guests.*.transports",
        Kind::Texts,
        None,
        "ways into the guest, tried in this order; default by os: linux/macos ssh, exec; windows ssh, winrm, exec",
    ),
    key(
        "guests.*.transport_turn",
        Kind::Duration,
        Some("\"45s\""),
        "how long to wait for each of several transports before trying the next",
    ),
    key(
        "guests.*.fresh",
        Kind::Choice(&["run", "suite", "case"]),
        Some("\"run\""),
        "one machine for the run, or a fresh one for each suite or case",
    ),
    key(
        "guests.*.snapshot",
        Kind::Choice(SnapshotPoint::WORDS),
        None,
        "when a machine is frozen so that others begin where it was, and do not boot: after-boot, after-setup (besides, with the code in it and \
         the setup of the suite run), off; default: after-setup with `fresh` of suite or case, else off",
    ),
    key(
        "guests.*.workers",
        Kind::CountOrAuto,
        Some("1"),
        "with `fresh = \"case\"`: how many machines run its cases at once, as far as `host.slots` and memory allow; auto = as many as the host has \
         processors for",
    ),
    key(
        "guests.*.checkpoint",
        Kind::Choice(Checkpoint::WORDS),
        Some("\"never\""),
        "on-failure: memory and disk of the machine are kept as they are when a case has failed; `vmdeck shell RUN/CASE` goes on there, as long as \
         `snapshots.max_size` leaves room",
    ),
    key("guests.*.launch_retries", Kind::Int(1, 20), Some("3"), "how many times a launch is tried"),
    key("guests.*.boot_timeout", Kind::Duration, Some("\"5m\""), "from power-on to the first command"),
    key("guests.*.case_timeout", Kind::Duration, Some("\"10m\""), "limit for each case that sets no timeout"),
    key(
        "guests.*.vmlinux",
        Kind::Path,
        None,
        "ELF file of the guest's kernel with debug information: the traces of trouble are told with file and line",
    ),
    key(
        "guests.*.boot.pattern",
        Kind::Pattern,
        None,
        "glob or /regex/: a console line that matches shows that the guest is ready",
    ),
    key(
        "guests.*.boot.errors",
        Kind::Patterns,
        Some("[\"/Kernel panic/\"]"),
        "globs or /regex/es for console lines; a match fails the boot, or later the running case",
    ),
    key("guests.*.boot.warnings", Kind::Patterns, Some("[]"), "a match is reported"),
    key(
        "guests.*.trouble_ignore",
        Kind::Texts,
        Some("[]"),
        "kinds or categories of trouble that the console of this guest may show; \"*\" = all; docs/trouble.md lists them",
    ),
    key(
        "guests.*.boot.watchdog",
        Kind::Int(0, 1000),
        Some("0"),
        "a boot is given up, with the stacks of its kernel, once its console has said nothing for so many times as long as it usually does \
         at that point, and for 5 s at least; 0 = only `boot_timeout` ends it",
    ),
    key(
        "guests.*.boot.restarts",
        Kind::Int(0, 1000),
        None,
        "how often the guest may restart by itself while it boots; default: until boot_timeout",
    ),
    key(
        "guests.*.shell",
        Kind::Shell,
        Some("\"sh\""),
        "runs every `run`, `setup` and `teardown`: sh (in Windows PowerShell), bash, strict, plain, powershell, cmd, or a program as a list of words",
    ),
    key(
        "guests.*.crash",
        Kind::Choice(&["failed", "infra"]),
        Some("\"failed\""),
        "the verdict on a case during which the system panics, restarts or powers off",
    ),
    key(
        "guests.*.survivors",
        Kind::Choice(&["replace", "keep"]),
        Some("\"replace\""),
        "what happens to a machine in which a command that timed out may still run: replaced before the next case, or kept",
    ),
    key(
        "guests.*.shutdown",
        Kind::Choice(Shutdown::WORDS),
        Some("\"quit\""),
        "how a machine is ended: quit = at once, powerdown = by its power button, command = by poweroff in it; what does not end in time is \
         ended all the same",
    ),
    key("guests.*.shutdown_timeout", Kind::Duration, Some("\"1m\""), "how long the guest may take to shut down"),
    key(
        "guests.*.first_boot",
        Kind::Choice(&["require", "warn", "ignore"]),
        Some("\"require\""),
        "cloud-init, where the guest has it: require = its end is waited for and a failure is infra, warn = errors are warnings, \
         ignore = it is not looked at",
    ),
    key(
        "guests.*.network",
        Kind::Choice(&["user", "restricted", "none"]),
        Some("\"user\""),
        "what a QEMU guest reaches: user (the internet, and by 10.0.2.2 this host's own services), restricted (nothing; ssh still \
         works), none (no network device)",
    ),
    key("guests.*.sudo.password", Kind::Secret, None, "for run_as = \"root\" where sudo asks"),
    key("guests.*.source.path", Kind::Path, None, "folder of this host to bring in"),
    key("guests.*.source.to", Kind::Text, None, "absolute folder in the guest; replaced as a whole"),
    key(
        "guests.*.source.exclude",
        Kind::Texts,
        Some("[]"),
        "globs of files to leave out, besides those that git ignores",
    ),
];
