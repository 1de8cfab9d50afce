//! `slow and not (net or gpu)`: which cases are wanted, by their tags.
//!
//! Selecting them by name is `select`'s matter.

/// An expression over tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagExpr(TagNode);

#[derive(Clone, Debug, PartialEq, Eq)]
enum TagNode {
    Tag(String),
    Not(Box<TagNode>),
    And(Box<TagNode>, Box<TagNode>),
    Or(Box<TagNode>, Box<TagNode>),
}

/// The words that are no tags.
const WORDS: [&str; 3] = ["and", "or", "not"];
/// How many brackets may be one in another.
const DEPTH: usize = 50;

/// Returns why a text cannot be a tag, if it cannot.
pub fn check_tag(tag: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
    if tag.is_empty() || !tag.chars().all(is_plain) {
        return Err(format!("`{tag}` cannot be a tag: use letters, digits, `-`, `_`, `.` and `:`"));
    }
    if WORDS.contains(&tag) {
        return Err(format!("`{tag}` cannot be a tag: it is a word of `--tag`"));
    }
    Ok(())
}

impl TagExpr {
    /// Reads tags with `and`, `or`, `not` and brackets; `not` binds closest, `or` least.
    pub fn parse(text: &str) -> Result<Self, String> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut parser = Parser { words: &words, depth: 0 };
        let node = parser.or().map_err(|why| format!("`{text}` is no expression of tags: {why}"))?;
        match parser.words.first() {
            None => Ok(Self(node)),
            Some(word) => Err(format!("`{text}` is no expression of tags: `{word}` is not expected")),
        }
    }

    /// Returns whether something with these tags is wanted.
    pub fn matches(&self, tags: &[String]) -> bool {
        self.0.matches(tags)
    }

    /// Returns every tag that is named.
    pub fn tags(&self) -> Vec<&str> {
        let mut out = Vec::new();
        self.0.collect(&mut out);
        out
    }

    /// Returns every tag that is named as one that is wanted.
    pub fn wanted_tags(&self) -> Vec<&str> {
        let mut out = Vec::new();
        self.0.collect_wanted(false, &mut out);
        out
    }
}

impl TagNode {
    fn matches(&self, tags: &[String]) -> bool {
        match self {
            TagNode::Tag(tag) => tags.contains(tag),
            TagNode::Not(inner) => !inner.matches(tags),
            TagNode::And(left, right) => left.matches(tags) && right.matches(tags),
            TagNode::Or(left, right) => left.matches(tags) || right.matches(tags),
        }
    }

    fn collect<'a>(&'a self, out: &mut Vec<&'a str>) {
        match self {
            TagNode::Tag(tag) => out.push(tag),
            TagNode::Not(inner) => inner.collect(out),
            TagNode::And(left, right) | TagNode::Or(left, right) => {
                left.collect(out);
                right.collect(out);
            }
        }
    }

    fn collect_wanted<'a>(&'a self, is_negated: bool, out: &mut Vec<&'a str>) {
        match self {
            TagNode::Tag(_) if is_negated => {}
            TagNode::Tag(tag) => out.push(tag),
            TagNode::Not(inner) => inner.collect_wanted(!is_negated, out),
            TagNode::And(left, right) | TagNode::Or(left, right) => {
                left.collect_wanted(is_negated, out);
                right.collect_wanted(is_negated, out);
            }
        }
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.first() == Some(&word);
        if is_next {
            self.words = &self.words[1..];
        }
        is_next
    }

    fn or(&mut self) -> Result<TagNode, String> {
        let mut node = self.and()?;
        while self.take("or") {
            node = TagNode::Or(Box::new(node), Box::new(self.and()?));
        }
        Ok(node)
    }

    fn and(&mut self) -> Result<TagNode, String> {
        let mut node = self.not()?;
        while self.take("and") {
            node = TagNode::And(Box::new(node), Box::new(self.not()?));
        }
        Ok(node)
    }

    fn not(&mut self) -> Result<TagNode, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("it is too deep".to_owned());
        }
        let node = if self.take("not") {
            TagNode::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let inner = self.or()?;
            if !self.take(")") {
                return Err("a `)` is missing".to_owned());
            }
            inner
        } else {
            let Some((word, rest)) = self.words.split_first() else { return Err("a tag is missing".to_owned()) };
            check_tag(word)?;
            self.words = rest;
            TagNode::Tag((*word).to_owned())
        };
        self.depth -= 1;
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_binds_closest_and_or_least() {
        let tags = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (text, of, want) in [
            ("slow", "slow net", true),
            ("slow and not net", "slow net", false),
            ("slow and not net", "slow", true),
            ("a or b and c", "a", true),
            ("(a or b) and c", "a", false),
            ("not not a", "a", true),
            ("not (a or b)", "c", true),
            ("not a or b", "", true),
        ] {
            assert_eq!(TagExpr::parse(text).expect(text).matches(&tags(of)), want, "{text} of {of:?}");
        }
        assert_eq!(TagExpr::parse("a and (not b or a)").expect("good").tags(), ["a", "b", "a"]);
        assert_eq!(TagExpr::parse("a and not (b or not c)").expect("good").wanted_tags(), ["a", "c"]);
    }

    #[test]
    fn what_is_no_expression_is_refused_with_the_reason() {
        let deep = "(".repeat(500);
        for bad in ["", "and", "a b", "a and", "(a", "a)", "not", "a && b", deep.as_str()] {
            assert!(TagExpr::parse(bad).is_err(), "{bad}");
        }
        assert!(check_tag("net.v6").is_ok() && check_tag("or").is_err() && check_tag("a b").is_err());
    }
}
