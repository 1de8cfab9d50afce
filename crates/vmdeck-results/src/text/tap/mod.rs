//! TAP, versions 12 to 14, and the kernel's KTAP: results in blocks, one in another.
//!
//! What a single line says is read in `words`, what a block has seen is kept in `block`, and the fields below a result in `yaml`.

mod block;
mod words;
mod yaml;

use crate::{line::Line, place::CodePlace, reader::LineReader, sheet::Sheet};
use block::{ClosedBlock, TapBlock, TapOutcome};
use vmdeck_model::subtest::SubtestStatus;
use words::{TapResult, Word};
use yaml::Yaml;

pub(crate) use words::{is_start, without_stamp};

/// Most blocks one in another.
const DEPTH: usize = 32;

/// See the module.
pub(crate) struct TapReader {
    is_kernel: bool,
    /// From the outermost block to the innermost; never empty.
    blocks: Vec<TapBlock>,
    yaml: Option<Yaml>,
    /// The last line that was none of ours, or the one with which a kernel ended.
    noise: String,
    bailed: bool,
    /// Whether there was more than a line that any program may write.
    is_sure: bool,
}

impl TapReader {
    /// Returns a reader; of the kernel's form if it is said so, else until a line says so.
    pub(crate) fn new(is_kernel: bool) -> Self {
        Self {
            is_kernel,
            blocks: vec![TapBlock::root()],
            yaml: None,
            noise: String::new(),
            bailed: false,
            is_sure: false,
        }
    }

    fn top(&mut self) -> &mut TapBlock {
        let last = self.blocks.len() - 1;
        &mut self.blocks[last]
    }

    fn note_noise(&mut self, text: &str, sheet: &mut Sheet) {
        let text = text.trim();
        if text.is_empty() || sheet.summary().kernel_panic.is_some() {
            return;
        }
        text.clone_into(&mut self.noise);
        if text.contains("Kernel panic - not syncing") {
            sheet.summary().kernel_panic = Some(crate::words::message(text));
        }
    }

    /// Makes the block at this depth the innermost; returns false where there are too many.
    fn move_to(&mut self, level: usize, sheet: &mut Sheet) -> bool {
        while self.blocks.len() > 1 && self.top().level > level {
            // Its parent's line never came.
            self.close_block(None, sheet);
        }
        if self.top().is_at(level) {
            self.top().adopt(level);
            return true;
        }
        if self.blocks.len() >= DEPTH {
            return false;
        }
        let announced = self.top().take_announced(sheet);
        let path = self.top().path_of_child();
        self.blocks.push(TapBlock::new(level, path, announced));
        true
    }

    /// Ends the innermost block; its parent's result names it where nothing did before.
    fn close_block(&mut self, parent: Option<&str>, sheet: &mut Sheet) -> Option<ClosedBlock> {
        if self.blocks.len() < 2 {
            return None;
        }
        let block = self.blocks.pop()?;
        block.close(parent, self.top(), sheet)
    }

    fn result(&mut self, result: &TapResult<'_>, level: usize, sheet: &mut Sheet) {
        let mut child: Option<ClosedBlock> = None;
        while self.blocks.len() > 1 && self.top().level > level {
            let is_direct = self.blocks[self.blocks.len() - 2].level <= level;
            let closed = self.close_block(is_direct.then_some(result.name.as_str()), sheet);
            child = if is_direct { closed } else { None };
        }
        if !self.move_to(level, sheet) {
            return;
        }
        let is_kernel = self.is_kernel;
        let block = self.top();
        if block.level == 0 {
            sheet.settle(block.last);
        }
        let number = block.count(result);
        let announced = block.announced.clone();
        let name = if result.name.is_empty() {
            let told = child.as_ref().and_then(|child| child.name.clone()).or(announced);
            told.unwrap_or_else(|| format!("test {number}"))
        } else {
            result.name.clone()
        };
        if result.opens {
            // What is in it follows.
            let path = block.path_of_child();
            block.begin_parent(result, &name);
            self.blocks.push(TapBlock::after_parent(level, path, name));
            return;
        }
        let told = std::mem::take(&mut block.told);
        let outcome = TapOutcome::of(result, is_kernel);
        let outcome = if is_kernel { outcome.with_earlier(&told, &name) } else { outcome };
        let outcome = TapBlock::or_skipped(outcome, child.as_ref());
        let child = child.filter(|child| child.parts > 0);
        let is_parent = child.is_some();
        block.last = block.record(&name, outcome, child, sheet);
        if is_parent && block.level == 0 {
            // What is in it was its own until now.
            sheet.settle_ended_before(block.last);
        }
    }

    /// Takes a line of comment after a result: why it failed, and where.
    fn comment(&mut self, text: &str, sheet: &mut Sheet) {
        let is_kernel = self.is_kernel;
        let block = self.top();
        if is_kernel {
            return block.tell(text);
        }
        let Some(entry) = sheet.entry(block.last) else { return };
        if entry.status.is_none_or(|status| status == SubtestStatus::Passed) {
            return;
        }
        if entry.place.is_none() {
            entry.place = CodePlace::find(text, None);
        }
        let is_heading = text.trim_start().starts_with("Failed test") || text.trim_start().starts_with("Failed (TODO)");
        if entry.message.is_empty() && !is_heading {
            entry.message = crate::place::reason(text);
        }
    }

    fn yaml_line(&mut self, text: &str, sheet: &mut Sheet) {
        let Some(yaml) = &mut self.yaml else { return };
        if yaml.take(text) {
            return;
        }
        let Some(yaml) = self.yaml.take() else { return };
        let last = self.top().last;
        if let Some(entry) = sheet.entry(last) {
            yaml.fill(entry);
        }
    }

    fn finish_root(&mut self, sheet: &mut Sheet) {
        while self.blocks.len() > 1 {
            self.close_block(None, sheet);
        }
        let is_kernel = self.is_kernel;
        self.top().finish_root(is_kernel, sheet);
        sheet.settle_ended();
        self.blocks = vec![TapBlock::root()];
    }
}

impl LineReader for TapReader {
    fn line(&mut self, line: &Line, sheet: &mut Sheet) {
        if self.bailed {
            return;
        }
        let text = without_stamp(&line.text);
        if self.yaml.is_some() {
            return self.yaml_line(text, sheet);
        }
        // The runner of kselftest begins as plain TAP does.
        self.is_kernel |= text.starts_with("# selftests: ");
        let inner = self.blocks.iter().any(|block| block.hashes > 0);
        let (level, hashes, rest) = words::depth(text, self.is_kernel, inner);
        let word = words::read(rest, self.is_kernel);
        if line.is_cut {
            sheet.summary().lacks("the last line is cut");
            // Half a line proves nothing.
            if !matches!(word, Word::Close | Word::Noise) {
                return;
            }
        }
        match word {
            Word::Version { is_kernel } => {
                self.is_sure = true;
                self.is_kernel |= is_kernel;
                if level == 0 && self.top().level == 0 && self.top().is_begun() {
                    self.finish_root(sheet);
                }
                if self.move_to(level, sheet) {
                    self.top().hashes = hashes;
                    self.top().has_version = true;
                }
            }
            Word::Plan { count, ref skip } => {
                if level == 0 && self.blocks.len() == 1 && self.top().is_whole() && self.top().is_begun() {
                    self.finish_root(sheet);
                }
                self.is_sure |= count == 0 || self.blocks.iter().any(TapBlock::is_begun);
                if self.move_to(level, sheet) {
                    let is_root = self.blocks.len() == 1;
                    self.top().plan(count, skip.as_deref(), is_root, sheet);
                }
            }
            Word::Result(result) => {
                if level > 0 && self.top().level < level && result.is_doubtful {
                    return self.note_noise(rest, sheet);
                }
                if level == 0 && result.number == Some(1) && self.blocks.len() == 1 && self.top().is_ended() {
                    self.finish_root(sheet);
                }
                // A plan and a result, or the first two by their numbers.
                self.is_sure |= self.top().has_plan() || (result.number == Some(2) && self.top().is_begun());
                self.result(&result, level, sheet);
            }
            Word::Announce(ref name) => {
                let is_deeper = level > self.top().level && !self.top().is_at(level);
                let names_block = is_deeper && self.top().announced.is_none();
                if !self.move_to(level, sheet) {
                    return;
                }
                self.top().hashes = hashes;
                let top = self.top();
                if names_block || (level > 0 && top.wants_name()) {
                    top.name_it(name);
                } else {
                    top.announce(name, sheet);
                }
            }
            Word::Bail(why) => {
                self.bailed = true;
                sheet
                    .summary()
                    .lacks(format!("bail out: {}", crate::words::message(why)).trim_end_matches(": ").to_owned());
            }
            Word::Yaml if self.top().last.is_some() => self.yaml = Some(Yaml::default()),
            Word::Close if self.top().is_after_parent => {
                let Some(closed) = self.close_block(None, sheet) else { return };
                self.top().end_parent(closed, sheet);
            }
            Word::Comment(text) => self.comment(text, sheet),
            Word::Yaml | Word::Close | Word::Noise => {
                if self.is_kernel {
                    self.top().tell(rest);
                }
                self.note_noise(rest, sheet);
            }
        }
    }

    fn is_certain(&self) -> bool {
        self.is_sure
    }

    fn is_closed(&self) -> bool {
        self.blocks.len() == 1 && self.yaml.is_none() && self.blocks[0].is_whole()
    }

    fn end(&mut self, sheet: &mut Sheet) {
        if self.yaml.is_some() {
            sheet.summary().lacks("cut inside the fields of a result");
        }
        let why = std::mem::take(&mut self.noise);
        let why = sheet.summary().kernel_panic.clone().unwrap_or(why);
        while self.blocks.len() > 1 {
            if let Some(mut block) = self.blocks.pop() {
                block.cut(sheet, &why);
            }
        }
        if self.bailed {
            sheet.end_running(&why);
            return;
        }
        self.finish_root(sheet);
        sheet.end_running(&why);
    }
}
