//! What a console said that stops a boot or a case, and how it reads as a cause.

use vmdeck_model::error::Fault;

/// Most characters of a console line in an error message.
const LINE: usize = 200;
/// Most console lines in an error message.
pub(super) const SHOWN: usize = 4;
/// How a Linux kernel begins its last message.
const PANIC: &str = "Kernel panic";

/// What the console said that stops a boot or a case; secrets are taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct ConsoleError {
    /// The error pattern as written.
    pub(in crate::engine) pattern: String,
    /// The kind of trouble, where it is one of the library and no pattern of the user's.
    pub(in crate::engine) kind: Option<String>,
    /// Whether the whole run ends with it.
    pub(in crate::engine) ends_run: bool,
    /// The line in which it was found.
    pub(in crate::engine) line: String,
    /// The lines before it.
    pub(in crate::engine) context: Vec<String>,
}

impl ConsoleError {
    /// Returns the error as a fault, with the lines before it.
    pub(in crate::engine) fn to_fault(&self) -> Fault {
        let before: Vec<String> =
            self.context[self.context.len().saturating_sub(SHOWN)..].iter().map(|line| cut(line)).collect();
        let context = if before.is_empty() { String::new() } else { format!("\n    {}", before.join("\n    ")) };
        let because = format!("{}{context}", cut(&self.line));
        match &self.kind {
            Some(kind) => Fault::infra(format!("the console shows trouble of the kind `{kind}`"))
                .because(because)
                .hint("see the guest's console log and docs/trouble.md; `trouble_ignore` leaves a kind out"),
            None => Fault::infra(format!("the console matched the error pattern `{}`", self.pattern))
                .because(because)
                .hint("see the guest's console log; `boot.errors` lists the patterns"),
        }
    }

    /// Returns whether the guest's kernel says that it has stopped.
    pub(in crate::engine) fn is_panic(&self) -> bool {
        self.line.contains(PANIC)
    }
}

/// Returns a line as a message shows it: a flood is one endless line.
pub(super) fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}
