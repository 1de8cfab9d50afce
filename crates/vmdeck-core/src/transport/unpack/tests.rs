use super::*;

fn unpack(bytes: impl Read, to: &Path, globs: &[String]) -> FetchedArtifacts {
    Unpacking::new(to, globs, 1 << 30, &Received::default(), &CancellationToken::new()).run(bytes)
}

fn all_files() -> Vec<String> {
    vec!["**".to_owned()]
}

/// Returns a header as hostile as a test wants it, with its checksum.
fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    // Written by hand: the builder itself refuses such names.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

#[test]
fn depth_and_folders_are_bounded_and_what_fits_still_comes() {
    let home = tempfile::tempdir().expect("tempdir");
    let mut tar = tar::Builder::new(Vec::new());
    let mut small = tar::Header::new_gnu();
    small.set_size(1);
    small.set_mode(0o644);
    tar.append_data(&mut small.clone(), "d/".repeat(DEPTH_MAX + 1) + "deep", &b"x"[..]).expect("entry");
    tar.append_data(&mut small.clone(), "n".repeat(5000), &b"x"[..]).expect("entry");
    tar.append_data(&mut small.clone(), format!("{}/f", "n".repeat(300)), &b"x"[..]).expect("entry");
    tar.append_data(&mut small.clone(), "after", &b"x"[..]).expect("entry");
    for folder in 0..=FOLDERS_MAX {
        tar.append_data(&mut small.clone(), format!("w{folder}/f"), &b"x"[..]).expect("entry");
    }
    let fetched = unpack(&tar.into_inner().expect("tar")[..], home.path(), &all_files());
    let said = fetched.missing().expect("reasons");
    assert!(said.contains("more than 100 folders") && said.contains("more than 10000"), "{said}");
    assert!(said.matches("too long").count() == 2, "{said}");
    assert!(home.path().join("after").exists());
    let made = fs::read_dir(home.path()).expect("dir").count();
    assert!(made <= FILES_MAX + 3, "{made}");
}

#[test]
fn more_bytes_than_allowed_are_never_written() {
    let home = tempfile::tempdir().expect("tempdir");
    let mut tar = tar::Builder::new(Vec::new());
    let body = vec![b'x'; 600];
    for name in ["a", "b"] {
        tar.append(&header(name, tar::EntryType::Regular, 600), &body[..]).expect("entry");
    }
    for name in ["c", "d", "e"] {
        let mut link = header(name, tar::EntryType::Link, 0);
        link.as_mut_bytes()[157] = b'a';
        link.set_cksum();
        tar.append(&link, &b""[..]).expect("entry");
    }
    let bytes = tar.into_inner().expect("tar");
    let unpacking = Unpacking::new(home.path(), &all_files(), 1000, &Received::default(), &CancellationToken::new());
    let fetched = unpacking.run(&bytes[..]);
    assert_eq!(fetched.count, 1);
    assert!(fetched.missing().expect("reasons").contains("there is more than"));
    assert!(!home.path().join("b").exists(), "half a file is none");
    // Copies of what came count as well.
    let more = tempfile::tempdir().expect("tempdir");
    let unpacking = Unpacking::new(more.path(), &all_files(), 2000, &Received::default(), &CancellationToken::new());
    assert_eq!(unpacking.run(&bytes[..]).count, 3, "a, b, and one copy of a");
}

/// Gives a prefix, and then the same byte for ever.
struct Endless(Vec<u8>, usize, CancellationToken);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1 < self.0.len() {
            let n = buffer.len().min(self.0.len() - self.1);
            buffer[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
            self.1 += n;
            return Ok(n);
        }
        // Somebody cancels while it comes.
        self.1 += buffer.len();
        if self.1 > 64 << 20 {
            self.2.cancel();
        }
        buffer.fill(b'x');
        Ok(buffer.len())
    }
}

#[test]
fn an_endless_archive_ends_by_a_limit_or_when_it_is_cancelled() {
    use tar::EntryType as T;
    let huge = 1 << 40;
    for (kind, reason) in [
        (T::Regular, "there is more than 1MiB"),
        (T::GNUSparse, "it was cancelled"),
        (T::GNULongName, "it was cancelled"),
        (T::XHeader, "it was cancelled"),
        (T::XGlobalHeader, "it was cancelled"),
        (T::Fifo, "it was cancelled"),
    ] {
        let home = tempfile::tempdir().expect("tempdir");
        let cancel = CancellationToken::new();
        let archive = Endless(header("name", kind, huge).as_bytes().to_vec(), 0, cancel.clone());
        let fetched = Unpacking::new(home.path(), &all_files(), 1 << 20, &Received::default(), &cancel).run(archive);
        let said = fetched.missing().expect("reasons");
        assert!(said.contains(reason), "{kind:?}: {said}");
        assert!(fs::read_dir(home.path()).expect("dir").next().is_none(), "{kind:?}");
    }
}

#[test]
fn sparse_files_and_sizes_that_headers_cannot_hold_are_named() {
    let home = tempfile::tempdir().expect("tempdir");
    let mut tar = tar::Builder::new(Vec::new());
    let attributes = b"22 GNU.sparse.major=1\n";
    tar.append(&header("x", tar::EntryType::XHeader, attributes.len() as u64), &attributes[..]).expect("entry");
    tar.append(&header("sparse", tar::EntryType::Regular, 1), &b"x"[..]).expect("entry");
    tar.append(&header("good", tar::EntryType::Regular, 1), &b"x"[..]).expect("entry");
    let attributes = b"20 size=99999999999\n";
    tar.append(&header("x", tar::EntryType::XHeader, attributes.len() as u64), &attributes[..]).expect("entry");
    tar.append(&header("large", tar::EntryType::Regular, 1), &b"x"[..]).expect("entry");
    let fetched = unpack(&tar.into_inner().expect("tar")[..], home.path(), &all_files());
    let said = fetched.missing().expect("reasons");
    assert!(said.contains("`sparse`: it was packed as a sparse file") && said.contains("too large"), "{said}");
    assert_eq!(fetched.count, 1);
}

#[test]
fn one_file_that_cannot_be_written_does_not_cost_the_others_and_a_cut_archive_is_told() {
    let home = tempfile::tempdir().expect("tempdir");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header.clone(), "n".repeat(300), &b"x"[..]).expect("entry");
    tar.append_data(&mut header, std::ffi::OsStr::from_bytes(b"l\xe4tin"), &b"x"[..]).expect("entry");
    raw_entry(&mut tar, "cut", tar::EntryType::Regular, "", 0o644, &[b'x'; 2000]);
    let bytes = tar.into_inner().expect("tar");
    let fetched = unpack(&bytes[..bytes.len() - 2500], home.path(), &["*".to_owned()]);
    let said = fetched.missing().expect("reasons");
    assert!(home.path().join(OsStr::from_bytes(b"l\xe4tin")).exists(), "{said}");
    assert!(said.contains("nnn") && said.contains("too long"), "{said}");
    assert!(said.contains("unexpected end") || said.contains("EOF") || said.contains("fill whole buffer"), "{said}");
}

fn raw_entry(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str, mode: u32, body: &[u8]) {
    let mut header = header(name, kind, body.len() as u64);
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(mode);
    header.set_cksum();
    tar.append(&header, body).expect("append");
}

#[test]
fn a_hostile_archive_writes_nothing_outside_and_nothing_executable() {
    use tar::EntryType as T;
    let home = tempfile::tempdir().expect("tempdir");
    let to = home.path().join("artifacts");
    fs::create_dir(&to).expect("mkdir");
    let mut tar = tar::Builder::new(Vec::new());
    raw_entry(&mut tar, "../escaped", T::Regular, "", 0o644, b"x");
    raw_entry(&mut tar, "/etc/escaped-vmdeck", T::Regular, "", 0o644, b"x");
    raw_entry(&mut tar, "link", T::Symlink, "..", 0o777, b"");
    raw_entry(&mut tar, "link/through", T::Regular, "", 0o644, b"x");
    raw_entry(&mut tar, "hard", T::Link, "/etc/passwd", 0o644, b"");
    raw_entry(&mut tar, "fifo", T::Fifo, "", 0o644, b"");
    raw_entry(&mut tar, "./target/run.sh", T::Regular, "", 0o4755, b"good");
    raw_entry(&mut tar, "./target/run.sh", T::Regular, "", 0o755, b"again");
    raw_entry(&mut tar, "./target/same", T::Link, "./target/run.sh", 0o644, b"");
    raw_entry(&mut tar, "unasked", T::Regular, "", 0o644, b"x");
    let long = "x".repeat(99);
    raw_entry(&mut tar, &long, T::Regular, "", 0o644, b"x");
    let bytes = tar.into_inner().expect("tar");
    let globs: Vec<String> =
        ["link", "hard", "fifo", "target", "x*", "none", "../escaped"].iter().map(|g| (*g).to_owned()).collect();
    let fetched = unpack(&bytes[..], &to, &globs);
    assert_eq!(fetched.count, 4, "run.sh, the link to it, what is below a name that is a link, and the long name");
    let said = fetched.missing().expect("reasons");
    for reason in [
        "`../escaped` is not a safe name",
        "`link`: it is not a regular file",
        "`hard`: it is a hard link to a file that did not come",
        "`fifo`: it is not a regular file",
        "no file matches `none`",
    ] {
        assert!(said.contains(reason), "{reason}: {said}");
    }
    assert!(!to.join("unasked").exists());
    assert_eq!(fs::read(to.join("target/same")).expect("link"), b"good");
    let out: Vec<_> = fs::read_dir(home.path()).expect("dir").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(out, ["artifacts"]);
    assert!(!Path::new("/etc/escaped-vmdeck").exists());
    assert!(to.join("link").is_dir(), "the link was not made, the folder was");
    assert!(!to.join("hard").exists() && !to.join("fifo").exists());
    let run = to.join("target/run.sh");
    assert_eq!(fs::read(&run).expect("file"), b"good");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(run).expect("meta").permissions()) & 0o7111, 0);
}
