//! Whom a job is for: Salt's targeting, parsed once and matched against ids and grains.
//!
//! ```text
//!   Target {kind, expression}  ── matcher() ──▶  Matcher ── matches(id, grains) ──▶ bool
//!        as the operator wrote it                a tree of nodes, parsed and bounded
//! ```
//!
//! [`glob`] is Python's `fnmatch`, [`grain`] Salt's `grain:glob` with nesting and lists, [`compound`] the words and their
//! precedence. A regular expression is matched from the start of the id, like Python's `re.match`.
//!
//! **Invariants.** Parsing ends on every input, without a panic and within the bounds of [`crate::limits`]; an error names
//! the word, its position (characters, from 1) and the remedy. Matching takes time linear in what is matched times the
//! length of the expression, so that an expression from a hostile minion (`mine.get`) holds nobody up.
//!
//! **It refuses** look-around and back-references (the engine has none), and Salt's matchers that need what this crate does
//! not hold: pillar, node groups, subnets, ranges and regular expressions over grains. They are named in the refusal.

pub mod compound;
pub mod glob;
pub mod grain;

use crate::id::{IdError, MinionId};
use crate::limits::{TARGET_BYTES_MAX, TARGET_DEPTH_MAX, TARGET_GLOB_BYTES_MAX};
use crate::{Map, Value};
use glob::Glob;
use grain::GrainPattern;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How an expression is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// `web*`: a glob over ids. The default.
    #[default]
    Glob,
    /// `-E`: a regular expression that matches from the start of the id, as in Salt.
    Regex,
    /// `-L`: ids, comma separated.
    List,
    /// `-G`: `grain:glob`, the grain's name may have colons for nesting.
    Grain,
    /// `-C`: `G@ E@ L@` and globs joined by `and`, `or`, `not`, `( )`.
    Compound,
}

impl TargetKind {
    /// Salt's name for it (`tgt_type`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Glob => "glob",
            Self::Regex => "pcre",
            Self::List => "list",
            Self::Grain => "grain",
            Self::Compound => "compound",
        }
    }
}

/// A target as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// How it is read.
    #[serde(default)]
    pub kind: TargetKind,
    /// What was written.
    pub expression: String,
}

/// Why an expression is no target. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing was written.
    #[error("the target is empty: write '*' for every minion")]
    Empty,
    /// Longer than [`TARGET_BYTES_MAX`].
    #[error("the target has {len} bytes, the limit is {TARGET_BYTES_MAX}: target a grain, or split the job")]
    Long {
        /// Length found, in bytes.
        len: usize,
    },
    /// One glob is longer than [`TARGET_GLOB_BYTES_MAX`].
    #[error(
        "the glob {glob:?}… at position {position} has {len} bytes, the limit is {TARGET_GLOB_BYTES_MAX}: for many names use -L or L@"
    )]
    LongGlob {
        /// Its beginning.
        glob: String,
        /// Where it begins.
        position: usize,
        /// Length found, in bytes.
        len: usize,
    },
    /// Parentheses nest deeper than [`TARGET_DEPTH_MAX`].
    #[error("the parenthesis at position {position} is nested deeper than {TARGET_DEPTH_MAX}: take some out")]
    Deep {
        /// Where the first one too many stands.
        position: usize,
    },
    /// The regular expression does not compile.
    #[error("{expression:?} at position {position} is not a regular expression: {cause}")]
    Regex {
        /// What was written.
        expression: String,
        /// Where it begins.
        position: usize,
        /// Why, in one line.
        cause: String,
    },
    /// A grain target without a grain or without a value.
    #[error("{word:?} at position {position} is not a grain target: write GRAIN:GLOB, for example os:Debian")]
    Grain {
        /// What was written.
        word: String,
        /// Where it begins.
        position: usize,
    },
    /// A list holds something that no minion can be called.
    #[error("the list holds at position {position}: {cause}")]
    Listed {
        /// Where it begins.
        position: usize,
        /// Why it is no id.
        cause: IdError,
    },
    /// A matcher that Salt has and Saltern has not.
    #[error(
        "{word:?} at position {position}: {engine}@ ({meaning}) is not supported yet; there are G@ (grain), E@ (regular expression), L@ (list) and plain globs"
    )]
    Unsupported {
        /// What was written.
        word: String,
        /// Where it begins.
        position: usize,
        /// The letter.
        engine: char,
        /// What it does in Salt.
        meaning: &'static str,
    },
    /// A letter that nobody has.
    #[error(
        "{word:?} at position {position}: there is no matcher {engine}@; there are G@ (grain), E@ (regular expression), L@ (list) and plain globs"
    )]
    NoSuchEngine {
        /// What was written.
        word: String,
        /// Where it begins.
        position: usize,
        /// The letter.
        engine: char,
    },
    /// A word where another is due.
    #[error("{word:?} at position {position} is out of place: expected {expected}")]
    Unexpected {
        /// What was written.
        word: String,
        /// Where it begins.
        position: usize,
        /// What could stand there.
        expected: &'static str,
    },
    /// The expression ends too early.
    #[error("the target ends after {word:?} at position {position}: expected {expected}")]
    Unfinished {
        /// The last word.
        word: String,
        /// Where it begins.
        position: usize,
        /// What could follow.
        expected: &'static str,
    },
    /// A parenthesis stays open.
    #[error("the parenthesis at position {position} is not closed: add ')'")]
    Unclosed {
        /// Where it stands.
        position: usize,
    },
}

impl Target {
    /// A glob over ids.
    pub fn glob(expression: impl Into<String>) -> Self {
        Self { kind: TargetKind::Glob, expression: expression.into() }
    }

    /// Parses the expression. The result matches any number of minions.
    pub fn matcher(&self) -> Result<Matcher, TargetError> {
        let text = self.expression.as_str();
        if text.len() > TARGET_BYTES_MAX {
            return Err(TargetError::Long { len: text.len() });
        }
        if text.trim().is_empty() {
            return Err(TargetError::Empty);
        }
        let root = match self.kind {
            TargetKind::Glob => Node::glob(text, 1)?,
            TargetKind::Regex => Node::regex(text, 1)?,
            TargetKind::List => Node::list(text, 1)?,
            TargetKind::Grain => Node::grain(text, 1)?,
            TargetKind::Compound => compound::parse(text)?,
        };
        Ok(Matcher { needs_grains: root.needs_grains(), root })
    }
}

impl fmt::Display for Target {
    /// What was written, without its kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.expression)
    }
}

/// A parsed target.
#[derive(Debug, Clone)]
pub struct Matcher {
    root: Node,
    needs_grains: bool,
}

impl Matcher {
    /// Whether the minion is meant. `grains` may be empty if [`Matcher::needs_grains`] is false.
    pub fn matches(&self, id: &MinionId, grains: &Map) -> bool {
        self.root.matches(id.as_str(), grains)
    }

    /// Whether the answer depends on grains; if not, the caller need not load them.
    pub fn needs_grains(&self) -> bool {
        self.needs_grains
    }

    /// The ids, sorted, if the whole target is a list of them: the caller may look them up instead of asking every minion,
    /// and can say which of them do not exist.
    pub fn listed(&self) -> Option<impl Iterator<Item = &str>> {
        match &self.root {
            Node::List(names) => Some(names.iter().map(String::as_str)),
            Node::Glob(_) | Node::Regex(_) | Node::Grain(_) | Node::All(_) | Node::Any(_) | Node::Not(_) => None,
        }
    }
}

/// One node of a parsed target.
#[derive(Debug, Clone)]
enum Node {
    Glob(Glob),
    Regex(regex::Regex),
    List(BTreeSet<String>),
    Grain(GrainPattern),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
}

/// Memory that one compiled regular expression may take, in bytes: counted repetitions multiply, and a target comes from
/// outside.
const REGEX_BYTES_MAX: usize = 1024 * 1024;

impl Node {
    fn glob(text: &str, position: usize) -> Result<Self, TargetError> {
        bounded(text, position)?;
        Ok(Self::Glob(Glob::new(text)))
    }

    fn regex(text: &str, position: usize) -> Result<Self, TargetError> {
        let built = regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build();
        built.map(Self::Regex).map_err(|error| TargetError::Regex {
            expression: shown(text),
            position,
            cause: regex_cause(&error),
        })
    }

    fn list(text: &str, position: usize) -> Result<Self, TargetError> {
        let mut names = BTreeSet::new();
        let mut at = position;
        for piece in text.split_inclusive(|c: char| c == ',' || c.is_whitespace()) {
            let name = piece.trim_end_matches(|c: char| c == ',' || c.is_whitespace());
            if !name.is_empty() {
                let id = MinionId::new(name).map_err(|cause| TargetError::Listed { position: at, cause })?;
                names.insert(id.as_str().to_owned());
            }
            at += piece.chars().count();
        }
        if names.is_empty() { Err(TargetError::Empty) } else { Ok(Self::List(names)) }
    }

    fn grain(text: &str, position: usize) -> Result<Self, TargetError> {
        bounded(text, position)?;
        let pattern = GrainPattern::new(text);
        pattern.map(Self::Grain).ok_or_else(|| TargetError::Grain { word: shown(text), position })
    }

    fn matches(&self, id: &str, grains: &Map) -> bool {
        match self {
            Self::Glob(glob) => glob.matches(id),
            // The leftmost match begins at 0 exactly if some match begins there: Python's `re.match`.
            Self::Regex(regex) => regex.find(id).is_some_and(|found| found.start() == 0),
            Self::List(names) => names.contains(id),
            Self::Grain(pattern) => pattern.matches(grains),
            Self::All(nodes) => nodes.iter().all(|node| node.matches(id, grains)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(id, grains)),
            Self::Not(node) => !node.matches(id, grains),
        }
    }

    fn needs_grains(&self) -> bool {
        match self {
            Self::Glob(_) | Self::Regex(_) | Self::List(_) => false,
            Self::Grain(_) => true,
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(Self::needs_grains),
            Self::Not(node) => node.needs_grains(),
        }
    }
}

/// Refuses a glob that is too long to be one.
fn bounded(text: &str, position: usize) -> Result<(), TargetError> {
    if text.len() <= TARGET_GLOB_BYTES_MAX {
        return Ok(());
    }
    Err(TargetError::LongGlob { glob: text.chars().take(20).collect(), position, len: text.len() })
}

/// As much of a word as an error message should repeat.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The last line of the regex crate's message, which is the sentence; in our words where people come with Python's habits.
fn regex_cause(error: &regex::Error) -> String {
    let text = error.to_string();
    if text.contains("look-around") {
        return "look-ahead and look-behind are not supported; use -C with 'not' instead".into();
    }
    if text.contains("backreferences") {
        return "back-references are not supported; write the alternatives out".into();
    }
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

/// How a grain's value reads when it is compared with a glob: as Python prints it, in lower case.
fn value_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("none".into()),
        Value::Bool(true) => Some("true".into()),
        Value::Bool(false) => Some("false".into()),
        Value::Number(number) => Some(number.to_string().to_lowercase()),
        Value::String(text) => Some(text.to_lowercase()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
