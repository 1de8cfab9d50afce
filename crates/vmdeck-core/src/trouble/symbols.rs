//! Where in its source a kernel was: `func+0x15/0x30` of a trace, by the debug information of its ELF file.
//!
//! Facts: the kernel prints `%pS`, a symbol with the offset in it and its size (lib/vsprintf.c), so a shift of all addresses plays no part.
//! Call traces hold return addresses, which lie behind the call.

use addr2line::Loader;
use object::{Object, ObjectSymbol, ReadCache, SymbolKind};
use regex::Regex;
use std::{collections::HashMap, path::Path};
use vmdeck_model::{
    error::{Fault, Result},
    text::Clean,
};

/// The place of a symbol: its address and its size.
type SymbolPlace = (u64, u64);

/// What an ELF file of a kernel says of its functions.
pub struct KernelSymbols {
    lines: Loader,
    /// The places of each name; static functions of several files may share one.
    places: HashMap<String, Vec<SymbolPlace>>,
    word: Regex,
}

impl KernelSymbols {
    /// Reads the file of a kernel with debug information (`vmlinux`).
    pub fn load(path: &Path) -> Result<Self> {
        let cannot = || Fault::user(format!("cannot read the symbols of `{}`", path.display()));
        let file = vmdeck_files::open(path).map_err(|e| cannot().because(e))?;
        let cache = ReadCache::new(file);
        let elf = object::File::parse(&cache).map_err(|e| cannot().because(e))?;
        let mut places: HashMap<String, Vec<SymbolPlace>> = HashMap::new();
        for symbol in elf.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
            if let Ok(name) = symbol.name() {
                places.entry(name.to_owned()).or_default().push((symbol.address(), symbol.size()));
            }
        }
        if places.is_empty() || !elf.has_debug_symbols() {
            return Err(cannot()
                .because("it has no debug information")
                .hint("name the `vmlinux` of a kernel that was built with CONFIG_DEBUG_INFO"));
        }
        let lines = Loader::new(path).map_err(|e| cannot().because(e))?;
        // Checked by a test below: a pattern that does not parse would be a bug in this line.
        let Ok(word) = Regex::new(r"([A-Za-z_][\w.]*)\+0x([0-9a-f]{1,8})/0x([0-9a-f]{1,8})") else {
            unreachable!("a built-in pattern")
        };
        Ok(Self { lines, places, word })
    }

    /// Returns a line of a trace with the places in the source that it names; as it was where it names none that is known.
    pub fn annotate(&self, line: &str) -> String {
        let is_exact = line.contains("RIP: ");
        let found = self.word.captures_iter(line).filter_map(|word| {
            // Of a module, whose functions may be called the same.
            let rest = line.get(word.get(0)?.end()..)?;
            if rest.starts_with(" [") {
                return None;
            }
            self.place(&word[1], &word[2], &word[3], is_exact)
        });
        let found: Vec<String> = found.collect();
        if found.is_empty() { line.to_owned() } else { format!("{line} ({})", found.join(", ")) }
    }

    /// Returns the file and line of an offset in a function; `None` = not known, or not for sure.
    fn place(&self, name: &str, offset: &str, size: &str, is_exact: bool) -> Option<String> {
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let (offset, size) = (number(offset)?, number(size)?);
        // What the kernel takes for the size reaches to the next symbol.
        let fits = |place: &&SymbolPlace| place.1 <= size && size - place.1 < 64 && offset < size;
        let mut places = self.places.get(name)?.iter().filter(fits);
        let (address, None) = (places.next()?.0, places.next()) else { return None };
        let at = address.checked_add(if is_exact { offset } else { offset.saturating_sub(1) })?;
        let location = self.lines.find_location(at).ok().flatten()?;
        let (file, line) = (location.file?, location.line?);
        // The file is the user's own, and may be anybody's.
        Some(Clean::from_text(&format!("{file}:{line}")).into_string())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test acts from outside")]

    use super::*;
    use std::process::Command;

    const SOURCE: &str = "volatile int x;\n\
                          __attribute__((noinline)) void inner(void) {\n  x = 1;\n  *(volatile int *)0 = 2;\n}\n\
                          __attribute__((noinline)) void outer(void) {\n  inner();\n  x = 3;\n}\n\
                          int main(void) { outer(); return 0; }\n";

    /// Builds a program; returns its path and the size of a function in it.
    fn build(dir: &Path, flags: &[&str]) -> std::path::PathBuf {
        let (source, program) = (dir.join("trace.c"), dir.join("program"));
        std::fs::write(&source, SOURCE).expect("file");
        let built = Command::new("cc").args(flags).arg("-O0").arg("-o").arg(&program).arg(&source).status();
        assert!(built.expect("cc").success());
        program
    }

    #[test]
    fn a_trace_is_told_with_file_and_line_and_only_where_that_is_sure() {
        let dir = tempfile::tempdir().expect("folder");
        let symbols = KernelSymbols::load(&build(dir.path(), &["-g"])).expect("symbols");
        let size = |name: &str| symbols.places[name][0].1;
        let line = |text: String| symbols.annotate(&text);
        let (inner, outer) = (size("inner"), size("outer"));
        // The last instructions of a function belong to its closing brace, its first to where it begins.
        let crash = line(format!("[ 1.0] RIP: 0010:inner+0x0/0x{inner:x}"));
        assert!(crash.ends_with("trace.c:2)"), "{crash}");
        let whole: Vec<u64> = (1..outer).collect();
        let seen: Vec<String> = whole.iter().map(|at| line(format!(" outer+0x{at:x}/0x{outer:x}"))).collect();
        assert!(seen.iter().any(|text| text.ends_with("trace.c:7)")), "{seen:?}");
        for text in [
            "no symbol here".to_owned(),
            format!(" nobody+0x1/0x{outer:x}"),
            format!(" outer+0x1/0x{:x}", outer + 4096),
            format!(" outer+0x{:x}/0x{outer:x}", outer + 1),
            format!(" outer+0x1/0x{outer:x} [module]"),
            " outer+0xffffffffffffffff/0xffffffffffffffff".to_owned(),
        ] {
            assert_eq!(line(text.clone()), text);
        }
    }

    #[test]
    fn a_file_without_debug_information_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let program = build(dir.path(), &[]);
        let said = |path: &Path| KernelSymbols::load(path).err().expect("refused").to_string();
        assert!(said(&program).contains("it has no debug information"));
        std::fs::write(dir.path().join("text"), "no ELF").expect("file");
        assert!(said(&dir.path().join("text")).contains("cannot read the symbols"));
        assert!(said(&dir.path().join("none")).contains("No such file"));
    }
}
