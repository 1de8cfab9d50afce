//! Whether a command for a guest wants the guest to end or to start anew, by its words.
//!
//! Pure. Only what is a command counts: a file that is copied, an argument or a text that is printed says nothing.

/// Bytes of a command's input that are looked at.
const LOOKED_AT: usize = 64 * 1024;
/// The commands that end the guest or start it anew.
const ENDS: [&str; 5] = ["shutdown", "poweroff", "reboot", "halt", "kexec"];
/// The words before a command that are none.
const BEFORE: [&str; 11] = ["sudo", "exec", "nohup", "then", "else", "do", "if", "!", "time", "command", "-n"];

/// A command that is being looked at.
pub(super) struct EndWish {
    /// Whether its input is commands.
    reads_commands: bool,
    seen: String,
    found: bool,
}

impl EndWish {
    /// Looks at a command; `reads_commands` = what it reads may be commands, too.
    pub(super) fn of(command: &str, reads_commands: bool) -> Self {
        Self { reads_commands, seen: String::new(), found: asks_for_end(command) }
    }

    /// Takes a piece of the input.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let room = LOOKED_AT.saturating_sub(self.seen.len());
        if !self.reads_commands || room == 0 {
            return;
        }
        self.seen.push_str(&String::from_utf8_lossy(&bytes[..bytes.len().min(room)]));
        // A word that is cut may be another one.
        let whole = self.seen.rfind('\n').map_or("", |end| &self.seen[..end]);
        self.found |= asks_for_end(whole);
    }

    /// Notes that nothing more is read.
    pub(super) fn end(&mut self) {
        self.found |= asks_for_end(&self.seen);
    }

    /// Returns whether the guest shall end.
    pub(super) fn is_for_an_end(&self) -> bool {
        self.found
    }

    /// Returns the beginning of the input.
    pub(super) fn seen(&self) -> &str {
        &self.seen
    }
}

/// Returns whether a text of a shell has a command that ends the guest or starts it anew.
fn asks_for_end(text: &str) -> bool {
    text.split(['\n', ';', '|', '&', '(', ')', '`', '{', '}']).any(|command| {
        let words = command.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
        let is_assignment = |word: &&str| word.split_once('=').is_some_and(|(name, _)| !name.is_empty());
        let mut words = words.skip_while(|word| BEFORE.contains(word) || is_assignment(word));
        let Some(program) = words.next().and_then(|word| word.rsplit('/').next()) else { return false };
        ENDS.contains(&program) || (program == "systemctl" && words.any(|word| ENDS.contains(&word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_command_and_not_a_word() {
        for (text, ends) in [
            ("shutdown now", true),
            ("if true; then /sbin/reboot -f; fi", true),
            ("  systemctl reboot --reboot-argument=now", true),
            ("(kexec -e)", true),
            ("sudo -n reboot", true),
            ("X=1 poweroff", true),
            ("sleep 1 && reboot", true),
            ("./reboot-test.sh", false),
            ("./test.sh -t reboot", false),
            ("test_print_trc \"reboot\"", false),
            ("echo reboot", false),
            ("systemctl status", false),
            ("# no reboot", false),
            ("", false),
        ] {
            assert_eq!(asks_for_end(text), ends, "{text}");
        }
    }

    #[test]
    fn a_word_that_is_cut_is_none_yet() {
        let mut wish = EndWish::of("", true);
        wish.read(b"cd /\nhalt");
        assert!(!wish.is_for_an_end());
        wish.read(b"ing=1\n");
        assert!(!wish.is_for_an_end(), "halting=1");
        wish.read(b"halt");
        wish.end();
        assert!(wish.is_for_an_end());
        let mut file = EndWish::of("cat > x", false);
        file.read(b"reboot\n");
        file.end();
        assert!(!file.is_for_an_end(), "a file that is copied");
    }
}
