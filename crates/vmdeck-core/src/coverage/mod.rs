//! Which lines of programs were run: what gcov says, put together over cases and guests, and written as lcov reads it.
//!
//! Pure. How it is collected in a guest is `engine::cases`' work.

use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write as _};

/// What was run, by source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoverageMap {
    files: BTreeMap<String, FileCoverage>,
}

/// What was run of one source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FileCoverage {
    /// How often each line was run.
    lines: BTreeMap<u32, u64>,
    /// Where each function begins, and how often it was run.
    functions: BTreeMap<String, (u32, u64)>,
}

impl FileCoverage {
    fn add_line(&mut self, line: u32, count: u64) {
        let sum = self.lines.entry(line).or_default();
        *sum = sum.saturating_add(count);
    }

    /// Adds a function; where it begins is what was said of it first.
    fn add_function(&mut self, name: String, line: u32, count: u64) {
        let (_, sum) = self.functions.entry(name).or_insert((line, 0));
        *sum = sum.saturating_add(count);
    }
}

/// How much was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoverageTotal {
    /// The lines that can be run.
    pub lines: u64,
    /// Those of them that were.
    pub hit: u64,
}

/// A document of `gcov --json-format` (GCC 9 and newer).
#[derive(Deserialize)]
struct GcovDocument {
    #[serde(default)]
    current_working_directory: String,
    #[serde(default)]
    files: Vec<GcovFile>,
}

#[derive(Deserialize)]
struct GcovFile {
    file: String,
    #[serde(default)]
    lines: Vec<GcovLine>,
    #[serde(default)]
    functions: Vec<GcovFunction>,
}

#[derive(Deserialize)]
struct GcovLine {
    line_number: u32,
    count: u64,
}

#[derive(Deserialize)]
struct GcovFunction {
    #[serde(default)]
    demangled_name: String,
    #[serde(default)]
    name: String,
    start_line: u32,
    execution_count: u64,
}

impl CoverageMap {
    /// Adds the documents of a text, which stand one behind the other. `place` gives the path of a source file on this host; `None` = it
    /// is none of the user's. An error says what of the text is no document; what came before it counts.
    pub fn add_gcov(&mut self, text: &[u8], place: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
        for document in serde_json::Deserializer::from_slice(text).into_iter::<GcovDocument>() {
            let document = document.map_err(|e| e.to_string())?;
            for file in document.files {
                let path = if file.file.starts_with('/') {
                    file.file
                } else {
                    format!("{}/{}", document.current_working_directory.trim_end_matches('/'), file.file)
                };
                // A path of several lines would be records of its own.
                let Some(path) = place(&path).filter(|path| !path.chars().any(char::is_control)) else { continue };
                let known = self.files.entry(path).or_default();
                for line in file.lines {
                    known.add_line(line.line_number, line.count);
                }
                for function in file.functions {
                    let name = if function.demangled_name.is_empty() { function.name } else { function.demangled_name };
                    let name = name.replace(char::is_control, " ");
                    known.add_function(name, function.start_line, function.execution_count);
                }
            }
        }
        Ok(())
    }

    /// Adds what another map has.
    pub fn merge(&mut self, other: Self) {
        for (path, file) in other.files {
            let known = self.files.entry(path).or_default();
            for (line, count) in file.lines {
                known.add_line(line, count);
            }
            for (name, (line, count)) in file.functions {
                known.add_function(name, line, count);
            }
        }
    }

    /// Returns how much was run.
    pub fn total(&self) -> CoverageTotal {
        let lines = || self.files.values().flat_map(|file| file.lines.values());
        CoverageTotal { lines: lines().count() as u64, hit: lines().filter(|count| **count > 0).count() as u64 }
    }

    /// Returns whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns a tracefile as geninfo(1) of lcov describes it.
    pub fn to_lcov(&self) -> String {
        let mut out = String::from("TN:\n");
        for (path, FileCoverage { lines, functions }) in &self.files {
            let _ = writeln!(out, "SF:{path}");
            for (name, (line, _)) in functions {
                let _ = writeln!(out, "FN:{line},{name}");
            }
            for (name, (_, count)) in functions {
                let _ = writeln!(out, "FNDA:{count},{name}");
            }
            let hit = functions.values().filter(|(_, count)| *count > 0).count();
            let _ = writeln!(out, "FNF:{}\nFNH:{hit}", functions.len());
            for (line, count) in lines {
                let _ = writeln!(out, "DA:{line},{count}");
            }
            let hit = lines.values().filter(|count| **count > 0).count();
            let _ = writeln!(out, "LF:{}\nLH:{hit}\nend_of_record", lines.len());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"gcc_version": "12.2.0", "current_working_directory": "/src/app", "files": [
        {"file": "a.c", "lines": [{"count": 1, "line_number": 2}, {"count": 0, "line_number": 3}],
         "functions": [{"name": "f", "demangled_name": "f(int)", "start_line": 2, "execution_count": 1}]},
        {"file": "/usr/include/stdio.h", "lines": [{"count": 9, "line_number": 1}], "functions": []}]}"#;

    fn place(path: &str) -> Option<String> {
        path.strip_prefix("/src/").map(|rest| format!("/home/me/{rest}"))
    }

    #[test]
    fn documents_are_summed_up_and_have_paths_of_this_host() {
        let mut map = CoverageMap::default();
        map.add_gcov(format!("{DOCUMENT}\n{DOCUMENT}").as_bytes(), &place).expect("documents");
        let mut other = CoverageMap::default();
        other.add_gcov(DOCUMENT.as_bytes(), &place).expect("document");
        map.merge(other);
        assert_eq!(map.total(), CoverageTotal { lines: 2, hit: 1 });
        assert_eq!(
            map.to_lcov(),
            "TN:\nSF:/home/me/app/a.c\nFN:2,f(int)\nFNDA:3,f(int)\nFNF:1\nFNH:1\nDA:2,3\nDA:3,0\nLF:2\nLH:1\nend_of_record\n"
        );
    }

    #[test]
    fn what_is_no_document_is_said_and_a_path_is_one_line() {
        let mut map = CoverageMap::default();
        assert!(map.add_gcov(format!("{DOCUMENT} nonsense").as_bytes(), &place).is_err());
        assert!(!map.is_empty(), "what came before counts");
        let hostile = DOCUMENT.replace("a.c", "a\\nDA:1,1").replace("f(int)", "f\\nDA:9,9");
        let mut map = CoverageMap::default();
        map.add_gcov(hostile.as_bytes(), &place).expect("document");
        assert!(map.is_empty());
    }
}
