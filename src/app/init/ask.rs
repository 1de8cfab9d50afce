//! The questions of `vmdeck init`, at a terminal: each with an answer that Enter takes.

use super::{guest::GuestText, template::Template};
use crate::app::Io;
use std::io::IsTerminal;
use vmdeck_model::error::{Fault, Result};

/// What a person has chosen.
pub(super) struct Answers {
    pub guest: GuestText,
    pub test: Option<String>,
    /// Whether to run it once.
    pub check: bool,
}

/// Returns whether somebody can be asked.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Asks what shall be tested in, and how; `guests` has at least one, the first is the default.
pub(super) fn ask(
    template: Template,
    mut guests: Vec<GuestText>,
    test: Option<String>,
    io: &mut Io<'_>,
) -> Result<Answers> {
    io.say(&format!("This folder holds {}.\n\nWhat shall the tests run in?", template.words()));
    for (n, guest) in guests.iter().enumerate() {
        io.say(&format!("  {}  {}", n + 1, guest.what));
    }
    let mut person = Some(io);
    let chosen = loop {
        match line("Number [1]: ", &mut person).as_deref() {
            // Somebody who leaves wants nothing.
            None => return Err(Fault::user("cannot go on without an answer").because("nothing was written")),
            Some("") => break 0,
            Some(answer) => match answer.parse::<usize>() {
                Ok(n) if (1..=guests.len()).contains(&n) => break n - 1,
                _ => say(&mut person, &format!("a number from 1 to {}", guests.len())),
            },
        }
    };
    let question = match &test {
        Some(test) => format!("Which command tests the project? [{test}; - = none]: "),
        None => "Which command tests the project? [none]: ".to_owned(),
    };
    let test = match line(&question, &mut person).as_deref() {
        None | Some("") => test,
        Some("-") => None,
        Some(answer) => Some(answer.to_owned()),
    };
    let check = line("Run it once now, to see that it works? [Y/n]: ", &mut person);
    let check = check.is_some_and(|answer| !answer.to_lowercase().starts_with('n'));
    Ok(Answers { guest: guests.swap_remove(chosen), test, check })
}

fn say(person: &mut Option<&mut Io<'_>>, text: &str) {
    if let Some(io) = person {
        io.say(text);
    }
}

/// Returns what a person has typed; `None` at the end of input, after which nobody is asked any more.
fn line(question: &str, person: &mut Option<&mut Io<'_>>) -> Option<String> {
    let io = person.as_mut()?;
    let _ = write!(io.out, "{question}");
    let _ = io.out.flush();
    let mut answer = String::new();
    if std::io::stdin().read_line(&mut answer).unwrap_or(0) == 0 {
        io.say("");
        *person = None;
        return None;
    }
    Some(answer.trim().to_owned())
}
