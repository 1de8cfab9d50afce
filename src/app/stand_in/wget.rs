//! The stand-in of `wget`: the framework's `common.sh` comes from the run's own files, everything else from where it is.

use super::{options::SshOptions, real::become_real};
use crate::app::{Io, guest_test::COMMON};
use std::path::Path;

/// Writes `common.sh`, or becomes the real program.
pub(super) fn run(args: &[String], io: &mut Io<'_>) -> u8 {
    let urls: Vec<&String> = args.iter().filter(|word| word.contains("://")).collect();
    let is_common = |url: &str| url.rsplit('/').next() == Some("common.sh");
    let (Some(common), [url]) = (std::env::var_os(COMMON), &urls[..]) else { return become_real("wget", args, io) };
    if !is_common(url) {
        return become_real("wget", args, io);
    }
    let options = SshOptions::read(args, "OoaePtTwQ", usize::MAX).unwrap_or_default();
    let long = |flag: &str| args.iter().find_map(|word| word.strip_prefix(flag));
    let output = options.value('O').or_else(|| long("--output-document="));
    let name = output.unwrap_or("common.sh");
    // A name that is given is from here.
    let folder = options.value('P').or_else(|| long("--directory-prefix=")).filter(|_| output.is_none()).unwrap_or(".");
    let text = match vmdeck_files::read(Path::new(&common), vmdeck_files::SMALL) {
        Ok(text) => text,
        Err(e) => {
            io.warn(&format!("error: cannot read `{}`: {e}", Path::new(&common).display()));
            return 1;
        }
    };
    if name == "-" {
        return u8::from(io.out.write_all(&text).is_err());
    }
    let path = Path::new(folder).join(name);
    // A link leads to the files of the user.
    let _ = std::fs::remove_file(&path);
    match vmdeck_files::write(&path, &text) {
        Ok(()) => 0,
        Err(e) => {
            io.warn(&format!("error: cannot write `{}`: {e}", path.display()));
            3
        }
    }
}
