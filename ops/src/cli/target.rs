//! `-E -L -G -C TARGET`, the same wherever minions are chosen.

use super::CliError;
use saltern_wire::target::{Target, TargetKind};

/// How a target is read; a glob unless told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Target options")]
pub struct TargetOptions {
    /// TARGET is a regular expression, matched from the start of the id
    #[arg(short = 'E', long = "pcre", visible_alias = "regex")]
    regex: bool,
    /// TARGET is a list of ids, separated by commas
    #[arg(short = 'L', long = "list")]
    list: bool,
    /// TARGET is GRAIN:GLOB, for example os:Debian
    #[arg(short = 'G', long = "grain")]
    grain: bool,
    /// TARGET is words: G@ E@ L@ and globs, joined by and, or, not, ( )
    #[arg(short = 'C', long = "compound")]
    compound: bool,
}

impl TargetOptions {
    /// The target, checked here so that a mistake in it reaches no master.
    pub fn target(&self, expression: String) -> Result<Target, CliError> {
        let kind = match (self.regex, self.list, self.grain, self.compound) {
            (true, ..) => TargetKind::Regex,
            (_, true, ..) => TargetKind::List,
            (_, _, true, _) => TargetKind::Grain,
            (_, _, _, true) => TargetKind::Compound,
            (false, false, false, false) => TargetKind::Glob,
        };
        let target = Target { kind, expression };
        match target.matcher() {
            Ok(_) => Ok(target),
            Err(error) => Err(CliError::Usage(error.to_string())),
        }
    }
}

/// The name of a kind in a query of the API.
pub fn kind_name(kind: TargetKind) -> String {
    crate::output::document(&kind).as_str().unwrap_or_default().to_owned()
}

/// A target as Salt shows it: a list as a list.
pub fn shown(target: &Target) -> saltern_wire::Value {
    match target.kind {
        TargetKind::List => target.expression.split(',').map(str::trim).filter(|name| !name.is_empty()).collect(),
        TargetKind::Glob | TargetKind::Regex | TargetKind::Grain | TargetKind::Compound => {
            target.expression.as_str().into()
        }
    }
}
