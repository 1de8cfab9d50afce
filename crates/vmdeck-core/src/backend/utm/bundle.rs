//! What UTM keeps on disk about a machine: the folder `NAME.utm` with its `config.plist`.
//!
//! It can be read where UTM itself may not be asked, and it has what `utmctl` does not tell: the MAC, the network mode, the
//! forwarded ports (facts of UTM 5.0.3: `UTMConfiguration.swift`).

use plist::Value;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Largest `config.plist` that is read; a real one has a few KiB.
const PLIST_MAX: u64 = 4 << 20;

/// A machine as it is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) uuid: Option<String>,
    /// The address of its first network card, as six octets.
    pub(super) mac: Option<[u8; 6]>,
    /// Whether its network is emulated: then its own address cannot be reached from this host.
    pub(super) emulated: bool,
    /// Guest ports and where this host forwards them from.
    pub(super) forwards: Vec<(u16, SocketAddr)>,
    /// Whether it is a machine of Apple's virtualization, which has no guest agent.
    pub(super) apple: bool,
}

/// Returns every machine in this folder, or in the usual one.
pub(super) fn seen(documents: Option<&Path>) -> Vec<Bundle> {
    let folder = documents.map(Path::to_owned).or_else(usual_folder);
    folder.map(|folder| all(&folder)).unwrap_or_default()
}

/// Returns the usual folder of UTM's machines.
fn usual_folder() -> Option<PathBuf> {
    let home = etcetera::home_dir().ok()?;
    Some(home.join("Library/Containers/com.utmapp.UTM/Data/Documents"))
}

/// Returns every machine in the folder; one that cannot be read is left out.
fn all(folder: &Path) -> Vec<Bundle> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut out: Vec<Bundle> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "utm"))
        .filter_map(|path| read(&path))
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn read(path: &Path) -> Option<Bundle> {
    let file = path.join("config.plist");
    let bytes = vmdeck_files::read(&file, PLIST_MAX).ok()?;
    let value = Value::from_reader(std::io::Cursor::new(bytes)).ok()?;
    Some(of(path, &value))
}

fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.as_dictionary()?.get(key))
}

fn of(path: &Path, value: &Value) -> Bundle {
    let text = |path: &[&str]| at(value, path).and_then(Value::as_string).map(str::to_owned);
    // The folder may have another name than the machine.
    let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let networks = at(value, &["Network"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let first = networks.first();
    let of_first = |key: &str| at(first?, &[key])?.as_string();
    let forwards = first.and_then(|n| at(n, &["PortForward"])).and_then(Value::as_array);
    Bundle {
        path: path.to_owned(),
        name: text(&["Information", "Name"]).unwrap_or_else(stem),
        uuid: text(&["Information", "UUID"]),
        mac: of_first("MacAddress").and_then(mac),
        emulated: of_first("Mode") == Some("Emulated"),
        forwards: forwards.into_iter().flatten().filter_map(forward).collect(),
        apple: text(&["Backend"]).as_deref() == Some("Apple"),
    }
}

fn forward(value: &Value) -> Option<(u16, SocketAddr)> {
    let port = |key: &str| at(value, &[key])?.as_unsigned_integer().and_then(|port| u16::try_from(port).ok());
    let tcp = at(value, &["Protocol"]).and_then(Value::as_string).is_none_or(|p| p.eq_ignore_ascii_case("tcp"));
    let host = at(value, &["HostAddress"]).and_then(Value::as_string).and_then(|ip| ip.parse::<IpAddr>().ok());
    let host = host.filter(|ip| !ip.is_unspecified()).unwrap_or(Ipv4Addr::LOCALHOST.into());
    let (guest, on_host) = (port("GuestPort")?, port("HostPort")?);
    tcp.then(|| (guest, SocketAddr::new(host, on_host)))
}

/// Six octets, with or without leading zeros: `52:54:0:eb:c4:7`.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut out = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut out {
        let part = parts.next().filter(|p| (1..=2).contains(&p.len()))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Bundle {
        of(Path::new("/d/folder name.utm"), &Value::from_reader_xml(text.as_bytes()).expect("plist"))
    }

    const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?><plist version="1.0"><dict>"#;

    #[test]
    fn what_utmctl_does_not_tell_is_read() {
        let bundle = parse(&format!(
            "{HEAD}<key>Backend</key><string>QEMU</string><key>Information</key><dict><key>Name</key><string>ci-linux</string>\
             <key>UUID</key><string>FC37</string><key>Icon</key><string>linux</string></dict><key>Network</key><array><dict>\
             <key>Mode</key><string>Emulated</string><key>MacAddress</key><string>52:54:00:EB:C4:07</string><key>PortForward</key><array>\
             <dict><key>Protocol</key><string>TCP</string><key>GuestPort</key><integer>22</integer><key>HostPort</key><integer>2222</integer></dict>\
             <dict><key>Protocol</key><string>UDP</string><key>GuestPort</key><integer>53</integer><key>HostPort</key><integer>5353</integer></dict>\
             </array></dict></array></dict></plist>"
        ));
        assert_eq!((bundle.name.as_str(), bundle.uuid.as_deref(), bundle.emulated), ("ci-linux", Some("FC37"), true));
        assert_eq!(bundle.mac, Some([0x52, 0x54, 0, 0xeb, 0xc4, 7]));
        assert_eq!(bundle.forwards, [(22, "127.0.0.1:2222".parse().expect("address"))]);
        assert!(!bundle.apple);
    }

    #[test]
    fn a_legacy_file_without_most_keys_has_at_least_the_folders_name() {
        let bundle = parse(&format!("{HEAD}<key>ConfigurationVersion</key><integer>2</integer></dict></plist>"));
        assert_eq!((bundle.name.as_str(), bundle.uuid, bundle.mac), ("folder name", None, None));
    }

    #[test]
    fn octets_have_no_leading_zeros_in_some_places() {
        assert_eq!(mac("52:54:0:eb:c4:7"), mac("52:54:00:EB:C4:07"));
        for bad in ["", "52:54:0:eb:c4", "52:54:0:eb:c4:7:1", "52:54:0:eb:c4:777", "(incomplete)"] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Value::from_reader(std::io::Cursor::new(bytes)).map(|value| of(Path::new("/x.utm"), &value));
        }
    }
}
