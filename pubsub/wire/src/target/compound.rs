//! Compound targets: words joined by `and`, `or`, `not` and parentheses.
//!
//! ```text
//!   any  := all { "or" all }
//!   all  := not { "and" not | "not" … }        "a not b" means "a and not b", as in Salt
//!   not  := { "not" } word
//!   word := "(" any ")" | "G@" grain:glob | "E@" regex | "L@" id,id | glob
//! ```
//!
//! Words are divided by white space. Parentheses may also touch a word: an opening one before it, and a closing one that has
//! no opening one inside the same word, so that `(E@web-(a|b) or db*)` reads as people mean it. Only parentheses recurse, at
//! most [`TARGET_DEPTH_MAX`] deep.

use super::{Node, TargetError, shown};
use crate::limits::TARGET_DEPTH_MAX;

/// Parses a compound expression.
pub(super) fn parse(text: &str) -> Result<Node, TargetError> {
    let words = words(text);
    let mut parser = Parser { words: &words, at: 0, open: Vec::new() };
    let node = parser.any()?;
    match parser.peek() {
        None => Ok(node),
        Some(word) => Err(word.unexpected("'and', 'or' or the end")),
    }
}

/// A word and where it begins, in characters from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word<'a> {
    text: &'a str,
    position: usize,
}

impl Word<'_> {
    fn unexpected(&self, expected: &'static str) -> TargetError {
        TargetError::Unexpected { word: shown(self.text), position: self.position, expected }
    }
}

/// Divides the expression.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut out = Vec::new();
    let mut position = 1;
    for piece in text.split_inclusive(char::is_whitespace) {
        let mut word = piece.trim_end();
        let mut at = position;
        while let Some(rest) = word.strip_prefix('(') {
            out.push(Word { text: "(", position: at });
            word = rest;
            at += 1;
        }
        let body = &word[..unopened(word)];
        if !body.is_empty() {
            out.push(Word { text: body, position: at });
        }
        at += body.chars().count();
        for closing in word[body.len()..].split_inclusive(')') {
            out.push(Word { text: closing, position: at });
            at += closing.chars().count();
        }
        position += piece.chars().count();
    }
    out
}

/// Length of `word` without the closing parentheses at its end that it has not opened itself.
fn unopened(word: &str) -> usize {
    let body = word.trim_end_matches(')');
    let mut open = 0_usize;
    let mut escaped = false;
    for c in body.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => open += 1,
            ')' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    (body.len() + open + usize::from(escaped)).min(word.len())
}

struct Parser<'a> {
    words: &'a [Word<'a>],
    at: usize,
    /// Positions of the parentheses that are open.
    open: Vec<usize>,
}

/// What can begin an operand.
const OPERAND: &str = "a glob, G@, E@, L@, 'not' or '('";

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Word<'a>> {
        self.words.get(self.at).copied()
    }

    fn take_if(&mut self, text: &str) -> bool {
        let found = self.peek().is_some_and(|word| word.text == text);
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<Node, TargetError> {
        let mut nodes = vec![self.all()?];
        while self.take_if("or") {
            nodes.push(self.all()?);
        }
        Ok(single(nodes, Node::Any))
    }

    fn all(&mut self) -> Result<Node, TargetError> {
        let mut nodes = vec![self.not()?];
        while self.take_if("and") || self.peek().is_some_and(|word| word.text == "not") {
            nodes.push(self.not()?);
        }
        Ok(single(nodes, Node::All))
    }

    fn not(&mut self) -> Result<Node, TargetError> {
        let mut negated = false;
        while self.take_if("not") {
            negated = !negated;
        }
        let node = self.word()?;
        Ok(if negated { Node::Not(Box::new(node)) } else { node })
    }

    fn word(&mut self) -> Result<Node, TargetError> {
        let Some(word) = self.peek() else { return Err(self.ended(OPERAND)) };
        self.at += 1;
        match word.text {
            "(" => self.parenthesis(word.position),
            ")" | "and" | "or" => Err(word.unexpected(OPERAND)),
            _ => operand(word),
        }
    }

    fn parenthesis(&mut self, position: usize) -> Result<Node, TargetError> {
        if self.open.len() == TARGET_DEPTH_MAX {
            return Err(TargetError::Deep { position });
        }
        self.open.push(position);
        let node = self.any()?;
        match self.peek() {
            Some(word) if word.text == ")" => {
                self.at += 1;
                self.open.pop();
                Ok(node)
            }
            Some(word) => Err(word.unexpected("'and', 'or' or ')'")),
            None => Err(TargetError::Unclosed { position }),
        }
    }

    /// The expression ended where something was due.
    fn ended(&self, expected: &'static str) -> TargetError {
        match self.words.last() {
            Some(last) => TargetError::Unfinished { word: shown(last.text), position: last.position, expected },
            None => TargetError::Empty,
        }
    }
}

/// One node stays itself.
fn single(mut nodes: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(node) if nodes.is_empty() => node,
        Some(node) => {
            nodes.push(node);
            join(nodes)
        }
        None => join(nodes),
    }
}

/// Reads one word that is neither an operator nor a parenthesis.
fn operand(word: Word<'_>) -> Result<Node, TargetError> {
    let Word { text, position } = word;
    let mut chars = text.chars();
    let (Some(engine), Some('@')) = (chars.next(), chars.next()) else { return Node::glob(text, position) };
    let body = chars.as_str();
    if body.is_empty() && matches!(engine, 'G' | 'E' | 'L') {
        return Err(word.unexpected("something after the '@', without a space"));
    }
    let unsupported = |meaning| TargetError::Unsupported { word: shown(text), position, engine, meaning };
    match engine {
        'G' => Node::grain(body, position + 2),
        'E' => Node::regex(body, position + 2),
        'L' => Node::list(body, position + 2),
        'P' => Err(unsupported("regular expression over a grain")),
        'I' => Err(unsupported("pillar")),
        'J' => Err(unsupported("regular expression over pillar")),
        'S' => Err(unsupported("subnet")),
        'N' => Err(unsupported("node group")),
        'R' => Err(unsupported("range")),
        _ => Err(TargetError::NoSuchEngine { word: shown(text), position, engine }),
    }
}
