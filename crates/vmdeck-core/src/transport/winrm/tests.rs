use super::*;
use crate::backend::{self, sample};
use vmdeck_model::{guest::Os, key::Value, secret::Secret};

fn guest(set: Keys<'_>) -> Guest {
    let mut options = Options::default();
    options.set("user", Value::Text("ci".into()));
    options.set("password", Value::Secret(Secret::new("p")));
    options.set("auth", Value::Text("ntlm".into()));
    for (key, value) in set {
        let value = match *key {
            "port" => Value::Int(value.parse().expect("port")),
            "password" => Value::Secret(Secret::new(*value)),
            _ => Value::Text((*value).to_owned()),
        };
        options.set(key, value);
    }
    let mut guest = sample::guest(&[]);
    guest.os = Os::Windows;
    guest.transport_options.insert(KIND.into(), options);
    guest
}

/// Keys and their values.
type Keys<'a> = &'a [(&'a str, &'a str)];
/// Host, port, path and TLS of a service.
type Spot<'a> = (Option<&'a str>, u16, &'a str, TlsMode);

#[test]
fn an_endpoint_says_what_host_port_and_tls_say() {
    let print = sha256();
    let rows: [(Keys<'_>, Spot<'_>); 9] = [
        (&[], (None, 5985, "/wsman", TlsMode::Off)),
        (&[("host", "h"), ("port", "80")], (Some("h"), 80, "/wsman", TlsMode::Off)),
        (&[("tls", "pinned"), ("cert", &print)], (None, 5986, "/wsman", TlsMode::Pinned)),
        (&[("tls", "ca")], (None, 5986, "/wsman", TlsMode::Authority)),
        (&[("endpoint", "http://10.0.0.5:5985/wsman")], (Some("10.0.0.5"), 5985, "/wsman", TlsMode::Off)),
        (&[("endpoint", "http://win.example")], (Some("win.example"), 5985, "/wsman", TlsMode::Off)),
        (&[("endpoint", "https://win/a/b")], (Some("win"), 5986, "/a/b", TlsMode::Pinned)),
        (&[("endpoint", "https://win:1"), ("tls", "ca")], (Some("win"), 1, "/wsman", TlsMode::Authority)),
        (&[("endpoint", "http://[::1]:7/wsman")], (Some("::1"), 7, "/wsman", TlsMode::Off)),
    ];
    for (set, (host, port, path, tls)) in rows {
        let settings = Settings::of(options(&guest(set))).expect("good");
        let wanted = Settings { host: host.map(str::to_owned), port, path: path.into(), tls };
        assert_eq!(settings, wanted, "{set:?}");
    }
}

fn sha256() -> String {
    format!("sha256:{}", "ab".repeat(32))
}

#[test]
fn what_cannot_work_is_said_before_anything_is_started() {
    let print = sha256();
    let rows: [(Keys<'_>, &str); 12] = [
        (&[("endpoint", "10.0.0.5:5985")], "and not like http://"),
        (&[("endpoint", "ftp://h/wsman")], "and not like http://"),
        (&[("endpoint", "http://user:pw@h/wsman")], "and not like http://"),
        (&[("endpoint", "http://h"), ("host", "i")], "say two things"),
        (&[("endpoint", "http://h"), ("port", "1")], "say two things"),
        (&[("endpoint", "https://h"), ("tls", "off")], "say two things"),
        (&[("endpoint", "http://h"), ("tls", "pinned")], "say two things"),
        (&[("auth", "basic")], "would send the password in the clear"),
        (&[("auth", "kerberos")], "cannot log on by Kerberos"),
        (&[("tls", "pinned"), ("cert", "/nonexistent.pem")], "neither a fingerprint"),
        (&[("tls", "ca"), ("cert", "/nonexistent.pem")], "neither a fingerprint"),
        (&[("cert", &print)], "`winrm.tls` is off"),
    ];
    let qemu = backend::capabilities_of("qemu");
    for (set, wanted) in rows {
        let guest = guest(set);
        let found = Winrm.check(&guest);
        assert!(found.iter().any(|finding| finding.text.contains(wanted)), "{set:?}: {found:?}");
        assert!(found.iter().all(|finding| finding.hint.as_ref().is_some_and(|hint| !hint.is_empty())), "{found:?}");
        assert!(matches!(Winrm.usable(&guest, &qemu), Err(Unusable::NotSetUp(_))), "{set:?}");
    }
    let mut silent = guest(&[]);
    silent.transport_options.clear();
    assert!(Winrm.check(&silent)[0].text.contains("no way to log on"));
    for good in [guest(&[]), guest(&[("tls", "pinned"), ("cert", &print), ("auth", "basic")])] {
        assert_eq!(Winrm.check(&good), []);
        assert_eq!(Winrm.usable(&good, &qemu), Ok(()));
    }
}

#[test]
fn a_guest_without_a_way_in_is_said() {
    let mut none = guest(&[]);
    none.network = Network::None;
    let qemu = backend::capabilities_of("qemu");
    assert!(matches!(Winrm.usable(&none, &qemu), Err(Unusable::NotSupported(_))));
    let local = backend::capabilities_of("local");
    assert!(matches!(Winrm.usable(&guest(&[]), &local), Err(Unusable::NotSupported(_))));
    assert_eq!(Winrm.usable(&guest(&[("host", "h")]), &local), Ok(()));
}
