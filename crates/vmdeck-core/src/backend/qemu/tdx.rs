//! What a QEMU binary knows of TDX guests: upstream has them from 10.1 on, with other properties than patched versions before.
//!
//! What this host must have for them is `confidential`'s matter.

use crate::host::process::{Spawner, Spec};
use std::{path::Path, time::Duration};
use vmdeck_model::{
    event::{Finding, Severity},
    guest::Guest,
    key::Options,
};

/// How long the binary may take to say what it knows.
const ASK: Duration = Duration::from_secs(10);

/// Returns whether a guest is one under TDX.
pub(super) fn is_wanted(guest: &Guest) -> bool {
    guest.options.text("vm_type").is_some_and(|kind| matches!(kind, "tdx" | "tdxio"))
}

/// What a binary that has TDX guests knows of them, by its own help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TdxDialect {
    /// Whether they have the property `debug`, and with it the other words of patched versions.
    pub(super) debug: bool,
    /// Whether their memory is of a kind of its own: patched versions.
    pub(super) private_memory: bool,
    /// Whether a device that is passed through can be in secure mode: versions for TDX-IO.
    pub(super) secure_mode: bool,
}

impl TdxDialect {
    /// Asks the binary; `None` = it has no TDX guests.
    pub(super) async fn ask(spawner: &Spawner, binary: &Path) -> Option<Self> {
        let said = async |option: &str, words: &str| {
            let spec = Spec::new(binary).args([option, words]);
            spawner.output(&spec, ASK).await.map(|out| out.stdout).unwrap_or_default()
        };
        let objects = said("-object", "help").await;
        // Only then the others are worth a question.
        Self::read(&objects, "", "")?;
        Self::read(&objects, &said("-object", "tdx-guest,help").await, &said("-device", "vfio-pci,help").await)
    }

    /// Reads the three helps.
    fn read(objects: &str, guest: &str, device: &str) -> Option<Self> {
        let has = |help: &str, word: &str| help.lines().any(|line| line.trim() == word);
        let has_property = |help: &str, name: &str| {
            help.lines().any(|line| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
        };
        has(objects, "tdx-guest").then(|| Self {
            debug: has_property(guest, "debug"),
            private_memory: has(objects, "memory-backend-memfd-private"),
            secure_mode: has_property(device, "x-secure-mode"),
        })
    }

    /// Returns the object of the guest and that of its memory, whose id is `ram1`.
    pub(super) fn objects(self, options: &Options, memory: u64) -> [String; 2] {
        let quote = options.text("quote_socket");
        let debug = options.text("debug").filter(|_| self.debug);
        let guest = if self.debug {
            // As the framework writes it for its own QEMU.
            let debug = debug.map(|word| format!(",debug={word}")).unwrap_or_default();
            let quote = quote.map(|socket| format!(",quote-generation-service={socket}")).unwrap_or_default();
            format!("tdx-guest,id=tdx{debug},sept-ve-disable=on{quote}")
        } else {
            let mut object = serde_json::json!({"qom-type": "tdx-guest", "id": "tdx", "sept-ve-disable": true});
            if let Some(socket) = quote.and_then(socket_address) {
                object["quote-generation-socket"] = socket;
            }
            object.to_string()
        };
        let kind = if self.private_memory { "memory-backend-memfd-private" } else { "memory-backend-ram" };
        [guest, format!("{kind},id=ram1,size={memory}")]
    }
}

/// Returns a socket `vsock:CID:PORT` or `unix:PATH` as upstream writes it; `None` = it is none of the two.
pub(super) fn socket_address(text: &str) -> Option<serde_json::Value> {
    let (kind, rest) = text.split_once(':')?;
    match kind {
        "vsock" => {
            let (cid, port) = rest.split_once(':')?;
            let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            (is_number(cid) && is_number(port)).then(|| serde_json::json!({"type": "vsock", "cid": cid, "port": port}))
        }
        "unix" => (!rest.is_empty()).then(|| serde_json::json!({"type": "unix", "path": rest})),
        _ => None,
    }
}

/// Returns what the binary lacks for such a guest.
pub(super) async fn findings(spawner: &Spawner, binary: &Path, guest: &Guest) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut add = |severity, text: String, hint: String| {
        out.push(Finding { check: "tdx".into(), severity, text, hint: Some(hint), fix: None });
    };
    let Some(dialect) = TdxDialect::ask(spawner, binary).await else {
        add(
            Severity::Fatal,
            format!("guest `{}`: `{}` knows no guests under TDX", guest.id, binary.display()),
            "use QEMU 10.1 or newer, or a patched one: `qemu.binary`".into(),
        );
        return out;
    };
    if guest.options.text("debug").is_some() && !dialect.debug {
        add(
            Severity::Warn,
            format!("guest `{}`: this QEMU's tdx-guest has no property `debug`; it is left out", guest.id),
            format!("remove `guests.{}.qemu.debug`", guest.key),
        );
    }
    if guest.options.text("vm_type") == Some("tdxio") && !dialect.secure_mode {
        add(
            Severity::Warn,
            format!("guest `{}`: this QEMU's vfio-pci has no secure mode; its devices are plain ones", guest.id),
            "use a QEMU for TDX-IO: `qemu.binary`".into(),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmdeck_model::key::Value;

    const UPSTREAM: &str = "tdx-guest options:\n  attributes=<uint64>\n  mrconfigid=<str>\n  quote-generation-socket=<SocketAddress>\n  sept-ve-disable=<bool>\n";
    const PATCHED: &str =
        "tdx-guest options:\n  debug=<bool>\n  quote-generation-service=<str>\n  sept-ve-disable=<bool>\n";

    #[test]
    fn patched_and_upstream_are_told_apart_by_their_own_help() {
        let objects = "List of user creatable objects:\n  memory-backend-ram\n  tdx-guest\n";
        let patched = TdxDialect { debug: true, private_memory: true, secure_mode: true };
        for (objects, guest, device, dialect) in [
            (objects.to_owned(), UPSTREAM, "", Some(TdxDialect::default())),
            (format!("{objects}  memory-backend-memfd-private\n"), PATCHED, "  x-secure-mode=<bool>\n", Some(patched)),
            ("  tdx-guest-x\n".into(), "  no-debug=<bool>\n", "", None),
            (String::new(), "", "", None),
        ] {
            assert_eq!(TdxDialect::read(&objects, guest, device), dialect, "{objects}");
        }
    }

    #[test]
    fn each_dialect_gets_its_own_objects() {
        let mut options = Options::default();
        options.set("debug", Value::Text("on".into()));
        options.set("quote_socket", Value::Text("vsock:2:4050".into()));
        let patched = TdxDialect { debug: true, private_memory: true, secure_mode: false };
        assert_eq!(
            patched.objects(&options, 1024),
            [
                "tdx-guest,id=tdx,debug=on,sept-ve-disable=on,quote-generation-service=vsock:2:4050",
                "memory-backend-memfd-private,id=ram1,size=1024"
            ]
        );
        assert_eq!(
            TdxDialect::default().objects(&options, 1024),
            [
                r#"{"qom-type":"tdx-guest","id":"tdx","sept-ve-disable":true,"quote-generation-socket":{"type":"vsock","cid":"2","port":"4050"}}"#,
                "memory-backend-ram,id=ram1,size=1024"
            ]
        );
    }

    #[test]
    fn a_quote_socket_is_one_of_two_kinds() {
        for (text, is_one) in [
            ("vsock:2:4050", true),
            ("unix:/run/qgs.sock", true),
            ("vsock:2", false),
            ("vsock:a:1", false),
            ("tcp:a:1", false),
            ("unix:", false),
        ] {
            assert_eq!(socket_address(text).is_some(), is_one, "{text}");
        }
    }
}
