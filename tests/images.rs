//! Images as a user meets them: `vmdeck image`, `vmdeck init`, the cache, firmware that finds nothing, and a Debian that is built here.

#![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};
use vmdeck_testkit::{
    micro::Micro,
    world::{World, eventually, finish, signal},
};

/// Returns a world whose cache is its own.
fn world(config: &str) -> World {
    let mut world = World::new(config);
    let cache = world.path("cache").display().to_string();
    world.env.push(("XDG_CACHE_HOME".into(), cache));
    world
}

/// Returns a disk with a boot sector that holds no program.
fn disk() -> Vec<u8> {
    let mut out = vec![0; 1 << 20];
    out[510..512].copy_from_slice(&[0x55, 0xaa]);
    out[4096..].fill(7);
    out
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Serves this content at any path, slowly where asked; returns the address.
fn serve(content: Vec<u8>, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let url = format!("http://{}/disk.img", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut lines = BufReader::new(client.try_clone().expect("clone")).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let head = format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n", content.len());
            let _ = client.write_all(head.as_bytes());
            for piece in content.chunks(64 * 1024) {
                if client.write_all(piece).is_err() {
                    break;
                }
                std::thread::sleep(pause);
            }
        }
    });
    url
}

/// What a server has, by path.
type Pages = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Serves these pages; returns the address.
fn serve_pages(pages: Pages) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut lines = BufReader::new(client.try_clone().expect("clone")).lines().map_while(Result::ok);
            let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
            lines.find(String::is_empty);
            let page = pages.lock().expect("pages").get(&path).cloned();
            let status = if page.is_some() { "200 OK" } else { "404 Not Found" };
            let page = page.unwrap_or_default();
            let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
            let _ = client.write_all(&page);
        }
    });
    url
}

#[test]
fn an_image_is_fetched_listed_verified_and_removed() {
    let (world, content) = (world(""), disk());
    let url = serve(content.clone(), Duration::ZERO);
    world.run(&["image", "list"]).exits(0).says("no image in");
    world.run(&["image", "pull", &url]).exits(2).complains("give its digest with --sha256");
    let wrong = "ab".repeat(32);
    let told = world.run(&["image", "pull", &url, "--sha256", &wrong]).exits(5);
    assert!(told.err.contains(&wrong) && told.err.contains(&sha256(&content)), "{}", told.err);
    world.run(&["image", "list"]).exits(0).says("no image in");
    world.run(&["image", "pull", &url, "--sha256", &sha256(&content)]).exits(0).says("(raw, in ");
    let list = world.run(&["image", "list", "--json"]).exits(0);
    let rows: serde_json::Value = serde_json::from_str(&list.out).expect("json");
    assert_eq!((rows[0]["origin"].as_str(), rows[1].is_null()), (Some(url.as_str()), true));
    world.run(&["image", "verify"]).exits(0);
    let name = rows[0]["name"].as_str().expect("name").to_owned();
    let path = rows[0]["path"].as_str().expect("path").to_owned();
    fs::remove_file(&path).expect("removed");
    fs::write(&path, "another").expect("written");
    world.run(&["image", "verify"]).exits(1).complains(&format!("removed {name}"));
    world.run(&["image", "rm", &name]).exits(2).complains("no image with a name that begins so");
    world.run(&["image", "prune"]).exits(0).says("no image to remove");
}

#[test]
fn a_download_that_is_killed_leaves_no_image_and_is_begun_again() {
    let (world, content) = (world(""), disk());
    let url = serve(content.clone(), Duration::from_millis(100));
    let child = world.start(&["image", "pull", &url, "--sha256", &sha256(&content)]);
    let parts = || fs::read_dir(world.path("cache/vmdeck/images/parts")).into_iter().flatten().count();
    eventually("the download", Duration::from_secs(20), || parts() > 0);
    signal(&child, "KILL");
    finish(child).exits(-9);
    world.run(&["image", "list"]).exits(0).says("no image in");
    let child = world.start(&["image", "pull", &url, "--sha256", &sha256(&content)]);
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "INT");
    finish(child).exits(130);
    world.run(&["image", "list"]).exits(0).says("no image in");
    world.run(&["image", "pull", &url, "--sha256", &sha256(&content)]).exits(0);
    assert_eq!(parts(), 0);
}

#[test]
fn firmware_that_finds_nothing_to_boot_says_so_at_once_and_nothing_stays() {
    for (firmware, said) in [("bios", "No bootable device"), ("uefi", "Internal Shell")] {
        let world = world(&format!(
            "[guests.d]\nbackend = \"qemu\"\nimage = \"disk.img\"\nfirmware = \"{firmware}\"\ntpm = true\nmemory = \"256MiB\"\n\
             launch_retries = 1\nboot_timeout = \"2m\"\n[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"
        ));
        fs::write(world.path("disk.img"), vec![0; 1 << 20]).expect("written");
        world.ci(&[]).exits(5).says(said);
        assert!(world.record("guests/d/qemu.cmd").contains("tpm-crb"));
        world.assert_nothing_left();
    }
}

#[test]
fn a_config_with_an_image_that_cannot_be_says_so() {
    let good = "ab".repeat(32);
    for (lines, said) in [
        ("image = \"https://x/y.img\"\n".to_owned(), "needs its digest"),
        ("image = \"https://x/y.img\"\nimage_sha256 = \"abc\"\n".into(), "64 (SHA-256) or 128 (SHA-512)"),
        ("image = \"http://x/y.img\"\nimage_unverified = true\n".into(), "only an address of the kind https"),
        ("image = \"ftp://x/y.img\"\n".into(), "no address of the kind https"),
        ("image = \"plan9:4\"\n".into(), "no image is called `plan9` (known: almalinux, alpine, arch,"),
        ("image = \"debian:3\"\n".into(), "`debian` has no version `3` (known: 11, 12, 13)"),
        (format!("image = \"debian:12\"\nimage_sha256 = \"{good}\"\n"), "is in `vmdeck.images.lock`"),
        (
            "image = \"debian:12\"\n[images]\nmirror = \"http://mirror.example\"\n".into(),
            "no address of the kind https",
        ),
        ("image = \"debian:12\"\n[images.catalogue.\"a.b\"]\nuser = \"x\"\n".into(), "has letters, digits"),
        (
            "image = \"own:1\"\n[images.catalogue.own]\nuser = \"x\"\n".into(),
            "`images.catalogue.own.versions`: it is missing",
        ),
        ("image = \"debian:12\"\n[images.catalogue.debian]\nstamp = \"(\"\n".into(), "no regular expression"),
        ("image = \"debian:12\"\n[images.catalogue.debian]\nimage = \"https://x/{stmp}\"\n".into(), "an unknown word"),
        (
            "image = \"debian:12\"\n[images.catalogue.debian]\nimage = \"ftp://x/y\"\n".into(),
            "no address of the kind https",
        ),
        ("image = \"opensuse:16.0\"\n[images.catalogue.opensuse]\nindex = \"https://x/\"\n".into(), "go together"),
        ("image = { packages = [\"git\"] }\n".into(), "`build` is missing"),
        ("image = { build = \"debian:12\", package = \"git\" }\n".into(), "unknown key `package`"),
        ("image = 7\n".into(), "expected a path, an address"),
        (format!("image = \"https://x/y.img\"\nimage_sha256 = \"{good}\"\nqemu.image = \"z\"\n"), "say two things"),
        ("image = \"x.img\"\nseed = \"cloud-init\"\nssh.key = \"k\"\n".into(), "a key, password or agent of its own"),
        ("seed = \"credentials\"\n".into(), "only a guest whose `image` is a disk image"),
        ("image = \"x.img\"\nseed = \"credentials\"\nuser_data = \"u\"\n".into(), "nothing would read it"),
        ("image = \"host\"\nuser_data = \"u\"\n".into(), "nothing would read it"),
        ("image = \"x.img\"\nuser_data = \"u\"\nssh.key = \"k\"\n".into(), "nothing would read it"),
    ] {
        let world = world(&format!("[guests.d]\nbackend = \"qemu\"\n{lines}"));
        world.run(&["config", "check"]).exits(2).complains(said);
    }
    let world = world(
        "[guests.d]\nbackend = \"qemu\"\nimage = { build = \"debian:1\" }\n[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n",
    );
    world.ci(&[]).exits(3).says("known: debian:12, debian:13");
    world.run(&["image", "build", "debian:12", "--package", "a b"]).complains("is no name of a package");
}

#[test]
fn offline_names_what_would_be_fetched() {
    let digest = "ab".repeat(32);
    let world = world(&format!(
        "[images]\noffline = true\n[guests.d]\nbackend = \"qemu\"\nimage = \"https://x.invalid/y.img\"\nimage_sha256 = \"{digest}\"\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"
    ));
    world.ci(&[]).exits(3).says("guest `d`: the image is not in the cache: `images.offline` is set");
}

/// What a guest gets besides its login is looked at before anything is started, and goes to where it is read.
#[test]
fn user_data_is_checked_and_handed_over() {
    for (seed, good, bad, why) in [
        ("cloud-init", "#cloud-config\n", "packages: []\n", "by which cloud-init knows what it is"),
        ("ignition", "{\"ignition\": {\"version\": \"3.3.0\"}}", "{}", "no config for Ignition"),
    ] {
        let world = world(&format!(
            "[guests.d]\nbackend = \"qemu\"\nimage = \"disk.img\"\nseed = \"{seed}\"\nuser_data = \"u\"\nmemory = \"256MiB\"\n\
             launch_retries = 1\nboot_timeout = \"2m\"\n[suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"
        ));
        fs::write(world.path("disk.img"), vec![0; 1 << 20]).expect("written");
        world.run(&["doctor"]).exits(3).says("cannot use `user_data`");
        fs::write(world.path("u"), bad).expect("written");
        world.run(&["doctor"]).exits(3).says(why);
        fs::write(world.path("u"), good).expect("written");
        world.ci(&[]).exits(5).says("No bootable device");
        let command = world.record("guests/d/qemu.cmd");
        let (has_disk, has_config) =
            (command.contains("seed.iso"), command.contains("name=opt/com.coreos/config,file="));
        assert_eq!((has_disk, has_config), (seed == "cloud-init", seed == "ignition"), "{command}");
        assert_eq!(has_config, command.contains("name=opt/org.flatcar-linux/config,file="));
        world.assert_nothing_left();
    }
}

/// Names, with a mirror of one's own: looked up once, written down beside the config, renewed when asked.
#[test]
fn a_name_is_looked_up_written_down_and_renewed() {
    let (content, newer) = (disk(), [disk(), vec![1]].concat());
    let page = |stamp: &str, content: &[u8]| {
        let folder = format!("/m/cloud/{stamp}");
        [
            ("/m/cloud/".to_owned(), format!("<a href=\"{stamp}/\">").into_bytes()),
            (format!("{folder}/SUMS"), format!("{}  own-x64.img\n", sha256(content)).into_bytes()),
            (format!("{folder}/own-x64.img"), content.to_vec()),
        ]
    };
    let pages: Pages = Pages::default();
    pages.lock().expect("pages").extend(page("20260101", &content));
    let mirror = serve_pages(Arc::clone(&pages));
    let world = world(&format!(
        "[images]\nmirror = \"{mirror}/m\"\n[images.catalogue.own]\nversions = {{ 1 = \"one\" }}\n\
         arch = {{ x86_64 = \"x64\", aarch64 = \"x64\" }}\nindex = \"https://own.example/cloud/\"\nlisted = \"{{stamp}}/\"\n\
         stamp = '\\d{{8}}'\nimage = \"https://own.example/cloud/{{stamp}}/own-{{arch}}.img\"\nsums = \"SUMS\"\nuser = \"me\"\n\
         [guests.d]\nbackend = \"qemu\"\nimage = \"own:one\"\nmemory = \"256MiB\"\nlaunch_retries = 1\nboot_timeout = \"10s\"\n\
         [suites.s]\n[[suites.s.cases]]\nname = \"c\"\nrun = \"true\"\n"
    ));
    world.run(&["image", "list", "--names"]).exits(0).says("own:1 (one)").says("debian:12 (bookworm)");
    world.run(&["config", "show"]).exits(0).says("guests.d.ssh.user = \"me\"").says("# the image own:1");
    // A run looks it up by itself, and boots what it got; nothing on it starts.
    world.ci(&[]).exits(5).says("looking up own:1").says("Booting from Hard Disk");
    let lock = fs::read_to_string(world.path("vmdeck.images.lock")).expect("the lock file");
    assert!(
        lock.contains("https://own.example/cloud/20260101/own-x64.img") && lock.contains(&sha256(&content)),
        "{lock}"
    );
    let pulled = world.run(&["image", "pull"]).exits(0);
    assert!(!pulled.err.contains("fetching"), "{}", pulled.err);

    pages.lock().expect("pages").extend(page("20260202", &newer));
    world.run(&["image", "pull", "own:1"]).exits(0);
    assert_eq!(fs::read_to_string(world.path("vmdeck.images.lock")).expect("the lock file"), lock);
    world.run(&["image", "update"]).exits(0).complains("own:1 is http");
    let renewed = fs::read_to_string(world.path("vmdeck.images.lock")).expect("the lock file");
    assert!(renewed.contains("20260202") && renewed.contains(&sha256(&newer)), "{renewed}");

    // What cannot be fetched takes the place of nothing.
    let broken = page("20260303", &[disk(), vec![9]].concat());
    pages.lock().expect("pages").extend(broken);
    pages.lock().expect("pages").insert("/m/cloud/20260303/own-x64.img".into(), b"<html>".to_vec());
    let told = world.run(&["image", "update"]).exits(5).complains("another image than the expected");
    assert!(!told.err.contains("image update own:1"), "{}", told.err);
    assert_eq!(fs::read_to_string(world.path("vmdeck.images.lock")).expect("the lock file"), renewed);
    world.run(&["image", "pull", "own:1", "--unverified"]).exits(2).complains("is in `vmdeck.images.lock`");
    world.run(&["image", "rm", ""]).exits(2).complains("a value is required");
    world.run(&["--set", "images.offline=true", "image", "update"]).exits(3).complains("nothing may be looked up");

    // What has vanished from its server says how to get a newer one.
    fs::write(
        world.path("vmdeck.images.lock"),
        lock.replace(&sha256(&content), &"ab".repeat(32)).replace("own-x64", "gone"),
    )
    .expect("written");
    world.run(&["image", "pull"]).exits(5).complains("404").complains("`vmdeck image update own:1`");
    fs::write(world.path("vmdeck.images.lock"), "version = 1\n[[image]\n").expect("written");
    world.run(&["config", "check"]).exits(2).complains("line 2");
    world.run(&["image", "update", "nosuch:1"]).exits(2).complains("no image is called `nosuch`");
}

/// From packages to a green run, with nothing written by hand: a Debian, its login by systemd's credentials.
/// Returns a world with a guest whose disk is built by booting it on another one: the micro guest, with a disk beside it.
fn customised() -> World {
    let keys = "image = { build = \"./base.img\", script = \"make.sh\" }\nfresh = \"case\"\nboot_timeout = \"60s\"";
    let guest = Micro { keys, ..Micro::default() }.guest("micro");
    let world = world(&format!(
        "{guest}[suites.s]\nrun_as = \"root\"\n[[suites.s.cases]]\nname = \"made\"\nrun = \"dd if=/dev/vda bs=512 skip=8 count=1 2>/dev/null | grep -o made.\"\n"
    ));
    fs::write(world.path("base.img"), disk()).expect("written");
    world
}

/// Lets the script of [`customised`] write this word to the disk, and then run this.
fn script(world: &World, word: &str, then: &str) {
    let text = format!("id -u | grep -qx 0\nprintf {word} | dd of=/dev/vda bs=512 seek=8 conv=notrunc\n{then}\n");
    fs::write(world.path("make.sh"), format!("#!/bin/sh\nset -e\n{text}")).expect("written");
}

#[test]
fn a_machine_that_boots_another_image_makes_a_new_one() {
    let world = customised();
    let built = || fs::read_dir(world.path("cache/vmdeck/images/built")).map_or(0, Iterator::count);
    let fresh_record = || drop(fs::remove_dir_all(world.path("record")));
    script(&world, "made1", "exit 3");
    world
        .ci(&["--junit", "out.xml"])
        .exits(5)
        .complains("cannot build `./base.img`")
        .complains("its script failed")
        .complains("vmdeck replay /");
    assert_eq!(built(), 0, "nothing of a build that failed");
    let junit = fs::read_to_string(world.path("out.xml")).expect("a report");
    assert!(junit.contains("cannot build"), "{junit}");
    world.assert_nothing_left();

    script(&world, "made1", "");
    world.run(&["doctor"]).exits(3).says("is not built yet").says("vmdeck image build");
    let ran = world.ci(&[]).exits(0).complains("building ./base.img").complains("image/script");
    assert!(!ran.out.contains("image/script"), "the other run speaks on the other stream: {}", ran.out);
    world.assert_verdicts(&[("s/made", "passed")]);
    assert!(world.record("guests/micro/s/made/stdout.log").contains("made1"));
    assert_eq!(fs::read(world.path("base.img")).expect("base"), disk(), "the base is never written");

    fresh_record();
    let again = world.ci(&[]).exits(0).says("the image is in the cache");
    assert!(!again.err.contains("building"), "{}", again.err);

    fresh_record();
    script(&world, "made2", "");
    world.run(&["image", "build"]).exits(0).complains("building ./base.img").says("root.qcow2");
    world.ci(&[]).exits(0);
    assert!(world.record("guests/micro/s/made/stdout.log").contains("made2"), "another script, another image");
    assert_eq!(built(), 2);
    world.run(&["image", "list"]).exits(0).says("base-img-").says("./base.img");
    world.assert_nothing_left();
}

#[test]
fn a_build_by_a_machine_that_is_killed_leaves_nothing_that_is_used() {
    let world = customised();
    script(&world, "made1", "sleep 60");
    let child = world.start(&["--ci", "--run-dir", "record"]);
    let works = || world.processes().iter().any(|line| line.contains("qemu-system"));
    eventually("a machine", Duration::from_secs(30), works);
    signal(&child, "KILL");
    finish(child);
    eventually("no machine", Duration::from_secs(30), || !works());
    script(&world, "made1", "");
    world.ci(&[]).exits(0).complains("building ./base.img");
    let built = fs::read_dir(world.path("cache/vmdeck/images/built")).expect("built").count();
    assert_eq!(built, 1, "the folder of the build that was killed is gone or used again");
    world.assert_nothing_left();
}

#[test]
fn one_folder_of_a_guest_is_one_folder_however_it_is_written() {
    for other in ["/srv/a/", "/srv//a", "/srv/./a"] {
        let shares = format!(
            "[[guests.g.shares]]\npath = \".\"\nto = \"/srv/a\"\n[[guests.g.shares]]\npath = \"..\"\nto = \"{other}\"\nread_only = false\n"
        );
        let world = world(&format!("[guests.g]\nbackend = \"qemu\"\nimage = \"debian:12\"\n{shares}"));
        world.run(&["config", "check"]).exits(2).complains("two shares would be mounted at `/srv/a`");
    }
}

#[test]
fn what_cannot_be_built_on_says_so() {
    for (image, said) in [
        ("{ build = \"host\" }", "it is no disk image"),
        ("{ build = \"debian:12\", by = \"magic\" }", "`by = \"magic\"` is unknown (known: packages, boot)"),
        ("{ build = \"fedora:42\", mirror = \"http://m\" }", "`mirror` is for a build from packages"),
        ("{ build = \"https://example.org/a.qcow2\" }", "needs its digest"),
        ("{ build = \"nosuch:1\" }", "nosuch"),
    ] {
        let world = world(&format!(
            "[guests.g]\nbackend = \"qemu\"\nimage = {image}\n{}",
            vmdeck_testkit::world::suite(&[("ok", "true", "")])
        ));
        world.run(&["config", "check"]).exits(2).complains(said).complains("guests.g.image");
    }
}

#[test]
fn a_debian_is_built_and_tested_in() {
    if std::env::var_os("VMDECK_TEST_SLOW").is_none() {
        return;
    }
    let world = world("");
    fs::remove_file(world.path("vmdeck.toml")).expect("removed");
    world.run(&["init", "--yes", "--image", "debian:12", "--test", "systemctl is-system-running --wait"]).exits(0);
    world.ci(&["--set", "guests.guest.boot_timeout=4m"]).exits(0);
    world.assert_verdicts(&[("smoke/hello", "passed"), ("smoke/test", "passed")]);
    world.run(&["image", "build", "debian:12"]).exits(0);
    world.assert_nothing_left();
}
