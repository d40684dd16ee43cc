//! Colours with Salt's meaning, and the cleaning of text from elsewhere.

use anstyle::{AnsiColor, Style};

/// Names: minions, keys of objects.
pub const KEY: Style = AnsiColor::Cyan.on_default();
/// Text values, and accepted keys.
pub const TEXT: Style = AnsiColor::Green.on_default();
/// Numbers, True, False and None.
pub const SCALAR: Style = AnsiColor::Yellow.on_default().bold();
/// What failed, and unaccepted keys.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Denied keys.
pub const DENIED: Style = AnsiColor::Magenta.on_default();
/// Rejected keys.
pub const REJECTED: Style = AnsiColor::Blue.on_default();
/// Warnings.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// Headings.
pub const HEAD: Style = Style::new().bold();
/// No colour.
pub const PLAIN: Style = Style::new();

/// `text` between the codes that switch `style` on and off.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// `text` with every control character but the tab as `?`: what a minion returns must not steer the operator's terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}

/// `text` without colours.
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}
