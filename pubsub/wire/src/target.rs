//! Whom a job is for: Salt's targeting, parsed once and matched against ids and grains.

use crate::id::MinionId;
use crate::{Map, Value};
use serde::{Deserialize, Serialize};

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

/// A target as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// How it is read.
    #[serde(default)]
    pub kind: TargetKind,
    /// What was written.
    pub expression: String,
}
