//! What is changed of a given command line, said, warned of and refused.

use super::*;
use crate::host::net::Probe;
use std::path::Path;

fn files() -> Files {
    Files::of(Path::new("/m"), Path::new("/r"), false, false, false)
}

fn made(line: &str, host: HostFacts) -> Fit {
    let words = shlex::split(line).expect("words");
    let services = [Service { name: "ssh", port: 22, probe: Probe::Banner(b"SSH-") }];
    fit(&words, host, "vmdeck-a-1", "u-u", &files(), &services)
}

/// Returns what is not ours of a command line, as text.
fn rest(fit: &Fit) -> String {
    let own = ["-name", "vmdeck-a-1", "-uuid", "u-u", "-qmp", "unix:/m/qmp.sock,server=on,wait=off"];
    assert_eq!(&fit.arguments[..own.len()], own);
    let mut rest = fit.arguments[own.len()..].to_vec();
    let end = rest.split_off(rest.len() - 3);
    assert_eq!(end, ["-action", "panic=pause", "-S"]);
    rest.join(" ")
}

#[test]
fn only_what_must_change_changes() {
    let emulated = HostFacts { emulated: true, ..HostFacts::default() };
    let new = HostFacts { lacks_no_hpet: true, lacks_tdx_debug: true, ..HostFacts::default() };
    let console =
        "-chardev socket,id=console,path=/m/console.sock,server=on,wait=off,logfile=/r/console.log,logappend=on";
    let plain = HostFacts::default();
    for (host, given, made_of) in [
        (emulated, "-nodefaults -accel kvm -cpu host,pmu=off", format!("{console} -nodefaults -accel tcg -cpu max,pmu=off -serial chardev:console")),
        (emulated, "-nodefaults -enable-kvm -M q35,accel=kvm:tcg", format!("{console} -nodefaults -accel tcg -M q35,accel=tcg -serial chardev:console")),
        (plain, "-nodefaults -accel kvm -cpu host", format!("{console} -nodefaults -accel kvm -cpu host -serial chardev:console")),
        (
            plain,
            "-chardev stdio,id=mux,mux=on,signal=off -serial chardev:mux -monitor chardev:mux -monitor pty",
            "-chardev socket,id=mux,mux=on,path=/m/console.sock,server=on,wait=off,logfile=/r/console.log,logappend=on -serial chardev:mux -monitor chardev:mux -monitor pty".into(),
        ),
        (
            plain,
            "-nodefaults -chardev file,id=a,path=/x,logfile=/y -serial chardev:a",
            "-nodefaults -chardev file,id=a,path=/x,logfile=/r/console.log,logappend=on -serial chardev:a".into(),
        ),
        (plain, "-nographic -serial mon:stdio", format!("{console} -nographic -serial chardev:console -monitor none")),
        (
            plain,
            "-nodefaults -append 'root=/dev/vda1 console=hvc0 quiet'",
            format!("{console} -nodefaults -append root=/dev/vda1 console=hvc0 quiet -serial chardev:serial -chardev file,id=serial,path=/r/console.log,append=on -device virtio-serial -device virtconsole,chardev=console"),
        ),
        (
            plain,
            "-nodefaults -monitor telnet:127.0.0.1:9432,server,nowait -daemonize",
            format!("{console} -nodefaults -monitor unix:/m/monitor.sock,server=on,wait=off -serial chardev:console"),
        ),
        (
            plain,
            "-nodefaults -netdev user,id=n0,hostfwd=tcp::10432-:22,hostfwd=tcp::80-:80,hostfwd=udp:1.2.3.4:5-:22",
            format!("{console} -nodefaults -netdev user,id=n0,hostfwd=tcp:127.0.0.1:0-:22,hostfwd=tcp:127.0.0.1:80-:80,hostfwd=udp:1.2.3.4:5-:22 -serial chardev:console"),
        ),
        (
            HostFacts { restricted: true, ..plain },
            "-nodefaults -nic user",
            format!(
                "{console} -nodefaults -nic user,restrict=on,hostfwd=tcp:127.0.0.1:0-:22 -serial chardev:console"
            ),
        ),
        (plain, "-nodefaults -nic user", format!("{console} -nodefaults -nic user,hostfwd=tcp:127.0.0.1:0-:22 -serial chardev:console")),
        (plain, "-nodefaults -drive file=/d,if=virtio", format!("-snapshot {console} -nodefaults -drive file=/d,if=virtio -serial chardev:console")),
        (plain, "-nodefaults -snapshot -hda /d", format!("{console} -nodefaults -snapshot -hda /d -serial chardev:console")),
        (
            new,
            "-nodefaults -no-hpet -object tdx-guest,id=tdx,debug=off,sept-ve-disable=on",
            format!("{console} -nodefaults -machine hpet=off -object tdx-guest,id=tdx,sept-ve-disable=on -serial chardev:console"),
        ),
        (
            new,
            "-nodefaults -object '{\"qom-type\":\"tdx-guest\",\"id\":\"tdx\",\"debug\":true}' -object iothread,debug=1",
            format!("{console} -nodefaults -object {{\"qom-type\":\"tdx-guest\",\"id\":\"tdx\"}} -object iothread,debug=1 -serial chardev:console"),
        ),
    ] {
        let fit = made(given, host);
        assert_eq!(rest(&fit), made_of, "{given}");
    }
}

#[test]
fn each_change_is_said() {
    let fit =
        made("-nodefaults -serial stdio -netdev user,id=n,hostfwd=tcp::1-:22 -drive file=/d", HostFacts::default());
    assert_eq!(fit.changes.len(), 3, "{:?}", fit.changes);
    assert!(fit.changes[1].starts_with("`-netdev user,id=n,hostfwd=tcp::1-:22` became "), "{:?}", fit.changes);
    assert!(made("-nodefaults -snapshot", HostFacts::default()).changes.len() == 1, "the console");
}

#[test]
fn no_option_hides_another_and_no_drive_is_written_to() {
    for line in [
        "-nodefaults -async-teardown -drive file=/d,snapshot=off",
        "-nodefaults -no-such-option -drive file=/d",
        "-nodefaults -no-shutdown -fda /d",
    ] {
        let fit = made(line, HostFacts::default());
        let has = |word: &str| fit.arguments.iter().any(|own| own == word);
        assert!(has("-snapshot") && !has("-no-shutdown"), "{line}: {fit:?}");
        assert!(fit.arguments.iter().all(|word| !word.contains("snapshot=off")), "{line}");
    }
    let kernel = made("-nodefaults -append -x=1 -drive file=/d", HostFacts::default());
    assert!(kernel.arguments.windows(2).any(|two| two == ["-append", "-x=1"]), "{kernel:?}");
}

#[test]
fn what_cannot_be_made_fit_is_refused_and_open_doors_are_told() {
    let words = |line: &str| shlex::split(line).expect("words");
    for (line, refused) in [
        ("-blockdev driver=qcow2,node-name=a,file.filename=/d", true),
        ("-blockdev driver=raw,node-name=a,read-only=on,file.filename=/d", false),
        ("-blockdev '{\"driver\":\"raw\",\"read-only\": true}'", false),
        ("-netdev '{\"type\":\"user\",\"id\":\"n\"}'", true),
        ("-netdev user,id=n -drive file=/d", false),
    ] {
        assert_eq!(refuse(&words(line)).is_some(), refused, "{line}");
    }
    for (line, doors) in [
        ("-nodefaults -s", 1),
        ("-nodefaults -gdb tcp::1234 -vnc :1", 2),
        ("-nodefaults -chardev socket,id=m,host=0.0.0.0,port=5,server=on -mon m", 1),
        ("-nodefaults -vnc none -gdb unix:/x", 0),
    ] {
        assert_eq!(made(line, HostFacts::default()).warnings.len(), doors, "{line}");
    }
}
