//! What a console says after the first line of a trouble: the rest of its trace, up to its end mark, as one finding.
//!
//! Pure: who reads the console, and when a block is given up, is `console_reader`'s matter.

use super::console_error::cut;

/// Most lines of a block.
const LINES: usize = 150;
/// How a kernel ends a trace (kernel/panic.c).
const END: &str = "---[ end ";
/// How it says what it carries that is none of its own.
const TAINTED: &str = "Tainted: ";

/// A block that is being read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TroubleBlock {
    lines: Vec<String>,
    /// The line that began it, which comes once more as a line.
    first: Option<String>,
    taint: Option<String>,
}

impl TroubleBlock {
    /// Returns a block that begins with this line.
    pub(super) fn begin(first: &str) -> Self {
        Self { lines: Vec::new(), first: Some(first.to_owned()), taint: taint(first) }
    }

    /// Takes the next line of the console; returns whether the block ends with it.
    pub(super) fn line(&mut self, line: &str) -> bool {
        // It may have grown since it was found.
        if let Some(first) = self.first.take()
            && line.contains(first.trim())
        {
            return line.contains(END);
        }
        if self.taint.is_none() {
            self.taint = taint(line);
        }
        if self.lines.len() < LINES {
            self.lines.push(cut(line));
        }
        line.contains(END)
    }

    /// Returns the lines after the first, and the taint of the kernel.
    pub(super) fn finish(self) -> (Vec<String>, Option<String>) {
        (self.lines, self.taint)
    }
}

/// Returns the letters of a kernel's taint: `Tainted: G        W  O       6.1.0` is `GWO`.
fn taint(line: &str) -> Option<String> {
    let (_, rest) = line.split_once(TAINTED)?;
    let words = rest.split_whitespace().take_while(|word| word.bytes().all(|byte| byte.is_ascii_uppercase()));
    let letters: String = words.collect();
    (!letters.is_empty()).then_some(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_ends_with_its_mark_and_tells_the_taint() {
        let mut block = TroubleBlock::begin("WARNING: CPU: 0 PID: 93 at x.c:1 f+0x1/0x2 [x]");
        let lines = [
            ("[ 2.3] WARNING: CPU: 0 PID: 93 at x.c:1 f+0x1/0x2 [x]", false),
            ("[ 2.3] CPU: 0 PID: 93 Comm: insmod Tainted: G        W  OE      6.1.0-56-cloud-amd64 #1  Debian", false),
            ("[ 2.3] Call Trace:", false),
            ("[ 2.3] ---[ end trace 0000000000000000 ]---", true),
        ];
        for (line, ends) in lines {
            assert_eq!(block.line(line), ends, "{line}");
        }
        let (lines, taint) = block.finish();
        assert_eq!((lines.len(), taint.as_deref()), (3, Some("GWOE")));
    }

    #[test]
    fn a_flood_is_bounded_and_an_untainted_kernel_has_no_taint() {
        let mut block = TroubleBlock::begin("Out of memory: Killed process 1");
        for _ in 0..1000 {
            assert!(!block.line("CPU: 0 Not tainted 6.1"));
        }
        let (lines, taint) = block.finish();
        assert_eq!((lines.len(), taint), (LINES, None));
    }
}
