//! Our own program as files for another root: the part of it that is loaded, and what the loader brought with it.
//!
//! A program that was linked statically is one file. For another one its libraries are those that this very process has, at the
//! same paths, where the same loader looks for them.

use super::elf::{self, INTERPRETER, LOAD};
use std::{collections::BTreeMap, io, os::unix::fs::FileExt, path::Path};

/// The program of this process, whatever became of its file.
const SELF: &str = "/proc/self/exe";
/// Most bytes of one file.
const FILE_MAX: u64 = 512 << 20;

/// Returns the files that make the program run under another root, by path: itself under the name `name`, its loader and its
/// libraries.
pub(super) fn files(name: &str) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let program = vmdeck_files::open(Path::new(SELF))?;
    let parts = elf::segments(|buffer, at| program.read_exact_at(buffer, at))?;
    let mut out = BTreeMap::new();
    // Names and lines for debuggers lie behind all that is loaded, and are most of a program that was built for them.
    let loaded =
        parts.iter().filter(|part| part.kind == LOAD).map(|part| part.offset.saturating_add(part.length)).max();
    let part = |offset: u64, length: u64| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length.min(FILE_MAX)).unwrap_or(0)];
        program.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    };
    out.insert(format!("/{name}"), part(0, loaded.unwrap_or(0))?);
    let Some(loader) = parts.iter().find(|part| part.kind == INTERPRETER) else { return Ok(out) };
    let loader = part(loader.offset, loader.length)?;
    let loader = String::from_utf8(loader).map_err(io::Error::other)?.trim_end_matches('\0').to_owned();
    out.insert(loader.clone(), vmdeck_files::read(Path::new(&loader), FILE_MAX)?);
    let own = std::fs::read_link(SELF)?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for path in mapped(&maps).filter(|path| Path::new(path) != own) {
        out.entry(path.to_owned()).or_insert(vmdeck_files::read(Path::new(path), FILE_MAX)?);
    }
    Ok(out)
}

/// Returns the paths of the files from which code was loaded, as proc(5) lists them.
fn mapped(maps: &str) -> impl Iterator<Item = &str> {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let is_code = fields.nth(1)?.contains('x');
        let path = fields.nth(3)?;
        (is_code && path.starts_with('/')).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_comes_with_all_that_it_needs_and_little_else() {
        let files = files("me").expect("read");
        let own = files.get("/me").expect("itself");
        let whole = std::fs::metadata(SELF).expect("there").len();
        assert!(own.starts_with(b"\x7fELF") && (own.len() as u64) <= whole);
        // This test is linked dynamically, as far as anybody can tell by its loader.
        if files.len() > 1 {
            assert!(files.keys().any(|path| path.contains("libc.so") || path.contains("ld-")), "{:?}", files.keys());
        }
        assert!(files.keys().all(|path| path.starts_with('/')));
    }

    #[test]
    fn only_files_with_code_are_libraries() {
        let maps = "55d0-55d1 r--p 00000000 fe:00 1 /usr/bin/x\n7f00-7f01 r-xp 00000000 fe:00 2                  /lib/libc.so.6\n\
                    7f02-7f03 rw-p 00000000 00:00 0 \n7f04-7f05 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(mapped(maps).collect::<Vec<_>>(), ["/lib/libc.so.6"]);
    }
}
