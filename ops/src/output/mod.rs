//! What the operator sees: one document, five formats, two streams.
//!
//! ```text
//!   Page (a noun's answer) ── nested ─▶ as Salt prints it        ─┐
//!                          ── json, yaml ─▶ one document          ├─▶ Screen: stdout for data, stderr for the rest
//!                          ── ndjson ─▶ one line an item          │
//!                          ── table ─▶ columns, never cut         ─┘
//! ```
//!
//! **Invariants.** json, yaml and ndjson hold the same words as the API. Control characters in what a minion returned never
//! reach the terminal: nested and table show them as `?`, the others escape them. Colours are added while text is made and
//! taken out by the screen that has none.

pub mod json;
pub mod ndjson;
pub mod nested;
pub mod screen;
pub mod style;
pub mod table;
pub mod yaml;

pub use screen::Screen;

use saltern_wire::Value;
use serde::Serialize;

/// How data is written to stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Salt's indented text
    #[default]
    Nested,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// One JSON document a line and item
    Ndjson,
    /// Columns
    Table,
}

impl Format {
    /// Whether people read it, so that notes between the data do no harm.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Nested | Self::Table)
    }
}

/// When colours are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// An answer that can be shown in every format.
pub trait Page {
    /// The document for json and yaml.
    fn document(&self) -> Value;
    /// The items for ndjson; the document itself unless the page is a list.
    fn lines(&self) -> Vec<Value> {
        vec![self.document()]
    }
    /// Salt's form, with colours, each line ended.
    fn nested(&self) -> String;
    /// Columns.
    fn table(&self) -> table::Table;
}

/// `value` as JSON. Types of the API are representable; what is not would be shown as null.
pub fn document<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// A page's text in one format, each line ended.
pub fn text(page: &dyn Page, format: Format) -> String {
    match format {
        Format::Nested => page.nested(),
        Format::Json => json::text(&page.document()),
        Format::Yaml => yaml::text(&page.document()),
        Format::Ndjson => page.lines().iter().map(ndjson::line).collect(),
        Format::Table => page.table().text(),
    }
}
