//! `os == 'linux' and matrix.db in ['pg', 'my']`: in which guests a case is run.
//!
//! It is judged while a run is planned: nothing that a guest says has a part in it.

use globset::Glob;
use std::collections::BTreeMap;

/// A condition over what is known of a guest and a case before the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhenExpr {
    /// The condition as it was written.
    text: String,
    node: WhenNode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum WhenNode {
    Is {
        left: Operand,
        test: Test,
        right: Vec<Operand>,
    },
    /// The words on the right are the case's tags.
    Tagged(Operand),
    Not(Box<WhenNode>),
    And(Box<WhenNode>, Box<WhenNode>),
    Or(Box<WhenNode>, Box<WhenNode>),
}

/// How two sides are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    /// The left is one of the right: `==`, `in`.
    Equal,
    /// It is none of them: `!=`.
    Unequal,
    /// It fits the glob on the right: `~`.
    Like,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Word(String),
    Name(String),
}

/// The names that say something of the guest.
pub const GUEST_NAMES: [&str; 5] = ["os", "guest", "backend", "arch", "role"];
/// How many brackets may be one in another.
const DEPTH: usize = 50;

/// What a condition may ask for.
#[derive(Clone, Debug, Default)]
pub struct WhenFacts<'a> {
    /// The values of `os`, `guest` and the others of the guest, in the order of [`GUEST_NAMES`].
    pub guest: [&'a str; 5],
    /// The tags of the case.
    pub tags: &'a [String],
    /// The values of its axes.
    pub matrix: &'a [(String, String)],
}

impl<'a> WhenFacts<'a> {
    /// Returns the value of a name; an error says that there is no such name.
    fn value(&self, name: &str) -> Result<&'a str, String> {
        if let Some(at) = GUEST_NAMES.iter().position(|known| *known == name) {
            return Ok(self.guest[at]);
        }
        if let Some(axis) = name.strip_prefix("matrix.") {
            let found = self.matrix.iter().find(|(own, _)| own == axis);
            return found.map(|(_, value)| value.as_str()).ok_or_else(|| {
                let known: Vec<&str> = self.matrix.iter().map(|(axis, _)| axis.as_str()).collect();
                let known =
                    if known.is_empty() { "there are none".to_owned() } else { format!("known: {}", known.join(", ")) };
                format!("the case has no axis `{axis}` ({known})")
            });
        }
        Err(format!(
            "`{name}` is unknown (known: {}, tags, matrix.AXIS, env.NAME; a text stands in quotes)",
            GUEST_NAMES.join(", ")
        ))
    }
}

impl WhenExpr {
    /// Reads a condition; `not` binds closest, `or` least. `env.NAME` stands for a variable of `env`, which is empty where it is not
    /// set.
    pub fn parse(text: &str, env: &BTreeMap<String, String>) -> Result<Self, String> {
        let bad = |why: String| format!("`{text}` is no condition: {why}");
        let tokens = tokens(text).map_err(bad)?;
        let mut parser = WhenParser { tokens: &tokens, env, depth: 0 };
        let node = parser.or().map_err(bad)?;
        match parser.tokens.first() {
            None => Ok(Self { text: text.to_owned(), node }),
            Some(token) => Err(bad(format!("{} is not expected", token.shown()))),
        }
    }

    /// Returns the condition as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether the condition holds; an error names what it asks for and nobody knows.
    pub fn holds(&self, facts: &WhenFacts<'_>) -> Result<bool, String> {
        self.node.holds(facts)
    }

    /// Returns every word that a name is compared with, with the name (`tags` for a tag) and whether the word is a glob: for those who
    /// know what there is.
    pub fn compared(&self) -> Vec<(&str, &str, bool)> {
        let mut out = Vec::new();
        self.node.compared(&mut out);
        out
    }
}

impl WhenNode {
    fn holds(&self, facts: &WhenFacts<'_>) -> Result<bool, String> {
        // Both sides are always looked at: a name that is unknown is a mistake wherever it stands.
        Ok(match self {
            WhenNode::Is { left, test, right } => {
                let left = left.value(facts)?;
                let right = right.iter().map(|right| right.value(facts)).collect::<Result<Vec<_>, _>>()?;
                match test {
                    Test::Equal => right.contains(&left),
                    Test::Unequal => !right.contains(&left),
                    Test::Like => right.iter().any(|glob| fits(glob, left)),
                }
            }
            WhenNode::Tagged(tag) => {
                let tag = tag.value(facts)?;
                facts.tags.iter().any(|own| own == tag)
            }
            WhenNode::Not(inner) => !inner.holds(facts)?,
            WhenNode::And(left, right) => left.holds(facts)? & right.holds(facts)?,
            WhenNode::Or(left, right) => left.holds(facts)? | right.holds(facts)?,
        })
    }

    fn compared<'a>(&'a self, out: &mut Vec<(&'a str, &'a str, bool)>) {
        match self {
            WhenNode::Is { left, test, right } => {
                for right in right {
                    if let (Operand::Name(name), Operand::Word(word)) | (Operand::Word(word), Operand::Name(name)) =
                        (left, right)
                    {
                        out.push((name, word, *test == Test::Like));
                    }
                }
            }
            WhenNode::Tagged(Operand::Word(word)) => out.push(("tags", word, false)),
            WhenNode::Tagged(Operand::Name(_)) => {}
            WhenNode::Not(inner) => inner.compared(out),
            WhenNode::And(left, right) | WhenNode::Or(left, right) => {
                left.compared(out);
                right.compared(out);
            }
        }
    }
}

impl Operand {
    fn value<'a>(&'a self, facts: &WhenFacts<'a>) -> Result<&'a str, String> {
        match self {
            Operand::Word(word) => Ok(word),
            Operand::Name(name) => facts.value(name),
        }
    }
}

fn fits(glob: &str, text: &str) -> bool {
    Glob::new(glob).is_ok_and(|glob| glob.compile_matcher().is_match(text))
}

/// A part of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A text in quotes.
    Quoted(String),
    /// A name, or one of `and`, `or`, `not`, `in`.
    Bare(String),
    /// `==`, `!=`, `~`, a bracket or a comma.
    Sign(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Token::Quoted(text) => format!("'{text}'"),
            Token::Bare(text) => format!("`{text}`"),
            Token::Sign(sign) => format!("`{sign}`"),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    const SIGNS: [&str; 8] = ["==", "!=", "~", "(", ")", "[", "]", ","];
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_bare = |c: char| c.is_alphanumeric() || "_.-".contains(c);
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            out.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else if first == '\'' || first == '"' {
            let Some(end) = rest[1..].find(first) else {
                return Err(format!("the text that begins at {rest} has no end"));
            };
            out.push(Token::Quoted(rest[1..=end].to_owned()));
            rest = &rest[end + 2..];
        } else if is_bare(first) {
            let end = rest.find(|c: char| !is_bare(c)).unwrap_or(rest.len());
            out.push(Token::Bare(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            return Err(match first {
                '=' => "`=` is not a comparison: write `==`".to_owned(),
                '&' | '|' | '!' => format!("`{first}` is not known: write `and`, `or` and `not`"),
                other => format!("`{other}` is not expected"),
            });
        }
        rest = rest.trim_start();
    }
    Ok(out)
}

struct WhenParser<'a> {
    tokens: &'a [Token],
    env: &'a BTreeMap<String, String>,
    depth: usize,
}

impl WhenParser<'_> {
    fn takes(&mut self, token: &Token) -> bool {
        let is_next = self.tokens.first() == Some(token);
        if is_next {
            self.tokens = &self.tokens[1..];
        }
        is_next
    }

    fn takes_word(&mut self, word: &str) -> bool {
        self.takes(&Token::Bare(word.to_owned()))
    }

    fn or(&mut self) -> Result<WhenNode, String> {
        let mut node = self.and()?;
        while self.takes_word("or") {
            node = WhenNode::Or(Box::new(node), Box::new(self.and()?));
        }
        Ok(node)
    }

    fn and(&mut self) -> Result<WhenNode, String> {
        let mut node = self.not()?;
        while self.takes_word("and") {
            node = WhenNode::And(Box::new(node), Box::new(self.not()?));
        }
        Ok(node)
    }

    fn not(&mut self) -> Result<WhenNode, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("it is too deep".to_owned());
        }
        let node = if self.takes_word("not") {
            WhenNode::Not(Box::new(self.not()?))
        } else if self.takes(&Token::Sign("(")) {
            let inner = self.or()?;
            if !self.takes(&Token::Sign(")")) {
                return Err("a `)` is missing".to_owned());
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn comparison(&mut self) -> Result<WhenNode, String> {
        let left = self.operand()?;
        let is_negated = self.takes_word("not");
        let node = if self.takes_word("in") {
            if self.takes_word("tags") {
                WhenNode::Tagged(left)
            } else {
                WhenNode::Is { left, test: Test::Equal, right: self.list()? }
            }
        } else if is_negated {
            return Err("`in` is missing behind `not`".to_owned());
        } else {
            let test = [("==", Test::Equal), ("!=", Test::Unequal), ("~", Test::Like)];
            let Some((_, test)) = test.into_iter().find(|(sign, _)| self.takes(&Token::Sign(sign))) else {
                return Err("a comparison is missing: `==`, `!=`, `~` or `in`".to_owned());
            };
            let right = self.operand()?;
            if let (Test::Like, Operand::Word(glob)) = (test, &right) {
                Glob::new(glob).map_err(|e| format!("cannot read `{glob}`: {e}"))?;
            }
            WhenNode::Is { left, test, right: vec![right] }
        };
        Ok(if is_negated { WhenNode::Not(Box::new(node)) } else { node })
    }

    fn list(&mut self) -> Result<Vec<Operand>, String> {
        if !self.takes(&Token::Sign("[")) {
            return Err("`in` wants `tags` or a list: ['a', 'b']".to_owned());
        }
        let mut out = Vec::new();
        while !self.takes(&Token::Sign("]")) {
            if !out.is_empty() && !self.takes(&Token::Sign(",")) {
                return Err("a `,` or `]` is missing".to_owned());
            }
            out.push(self.operand()?);
        }
        if out.is_empty() { Err("nothing can be in an empty list".to_owned()) } else { Ok(out) }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let (operand, rest) = match self.tokens.split_first() {
            Some((Token::Quoted(text), rest)) => (Operand::Word(text.clone()), rest),
            Some((Token::Bare(name), rest)) if !["and", "or", "not", "in"].contains(&name.as_str()) => {
                let variable = name.strip_prefix("env.").map(|variable| self.env.get(variable).cloned());
                let known = |value: Option<String>| Operand::Word(value.unwrap_or_default());
                (variable.map_or_else(|| Operand::Name(name.clone()), known), rest)
            }
            Some((token, _)) => {
                return Err(format!("{} stands where a name or a text in quotes is due", token.shown()));
            }
            None => return Err("a name or a text in quotes is missing".to_owned()),
        };
        self.tokens = rest;
        Ok(operand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judge(text: &str) -> Result<bool, String> {
        let matrix = [("db".to_owned(), "pg".to_owned()), ("go".to_owned(), "1.24".to_owned())];
        let (tags, env) = (["slow".to_owned()], BTreeMap::from([("CI".to_owned(), "true".to_owned())]));
        let facts = WhenFacts { guest: ["linux", "deb12", "qemu", "x86_64", ""], tags: &tags, matrix: &matrix };
        WhenExpr::parse(text, &env)?.holds(&facts)
    }

    #[test]
    fn conditions_hold_or_not() {
        for (text, want) in [
            ("os == 'linux'", true),
            ("os != \"linux\"", false),
            ("os == 'linux' and arch in ['x86_64', 'aarch64'] and matrix.db == 'pg'", true),
            ("guest ~ 'deb*' and not guest ~ 'deb1?'", false),
            ("'slow' in tags and 'net' not in tags", true),
            ("'net' in tags or backend == 'qemu'", true),
            ("os == 'windows' or os == 'linux' and guest == 'x'", false),
            ("(os == 'windows' or os == 'linux') and role == ''", true),
            ("env.CI == 'true' and env.NOWHERE == ''", true),
            ("matrix.go not in ['1.25',]", true),
            ("not not os=='linux'", true),
        ] {
            let text = text.replace(",]", "]");
            assert_eq!(judge(&text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "is missing"),
            ("os", "a comparison is missing"),
            ("os = 'linux'", "write `==`"),
            ("os == linux", "`linux` is unknown"),
            ("os == 'linux' && arch == 'x'", "write `and`"),
            ("matrix.nope == '1'", "known: db, go"),
            ("os == 'linux' or nope == '1'", "`nope` is unknown"),
            ("os == 'linux", "has no end"),
            ("os in []", "empty list"),
            ("os in 'linux'", "wants `tags` or a list"),
            ("(os == 'linux'", "a `)` is missing"),
            ("os == 'linux' 'x'", "'x' is not expected"),
            ("guest ~ '['", "cannot read"),
            (&"(".repeat(500), "too deep"),
            (&"not ".repeat(500), "too deep"),
        ] {
            let said = judge(text).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn what_it_asks_for_is_told() {
        let text = "guest == 'a' or guest ~ 'b*' and os in ['linux'] and env.CI == '1'";
        let expr = WhenExpr::parse(text, &BTreeMap::new()).expect("good");
        assert_eq!(expr.compared(), [("guest", "a", false), ("guest", "b*", true), ("os", "linux", false)]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z'\"()\\[\\],=!~ é.]{0,40}") {
            let _ = judge(&text);
        }
    }
}
