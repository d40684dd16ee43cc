//! The two streams of the program: data on stdout, everything else on stderr.

use super::table::Table;
use super::{ColorWhen, Format, Page, style};
use saltern_wire::Value;
use std::io::{self, Write};

/// Where text goes.
pub struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    color_out: bool,
    color_err: bool,
    format: Format,
    stamp: Option<Value>,
}

impl Screen {
    /// The terminal, or whatever stands in its place.
    pub fn standard(format: Format, when: ColorWhen) -> Self {
        let choice = match when {
            ColorWhen::Auto => anstream::ColorChoice::Auto,
            ColorWhen::Always => anstream::ColorChoice::AlwaysAnsi,
            ColorWhen::Never => anstream::ColorChoice::Never,
        };
        let (out, err) = (io::stdout(), io::stderr());
        let shows = |found: anstream::ColorChoice| when == ColorWhen::Always || found != anstream::ColorChoice::Never;
        let color_out = shows(anstream::AutoStream::new(&mut out.lock(), choice).current_choice());
        let color_err = shows(anstream::AutoStream::new(&mut err.lock(), choice).current_choice());
        Self::new(Box::new(out), Box::new(err), format, color_out, color_err)
    }

    /// Two writers of the caller's, with or without colours.
    pub fn new(
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        format: Format,
        color_out: bool,
        color_err: bool,
    ) -> Self {
        Self { out, err, color_out, color_err, format, stamp: None }
    }

    /// Wraps the documents of json and yaml from now on: `stamp`, an object that says of when they are, with the document as
    /// its `value`.
    pub fn stamp(&mut self, stamp: Value) {
        self.stamp = Some(stamp);
    }

    /// The format of the data.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes a page to stdout.
    pub fn show(&mut self, page: &dyn Page) -> io::Result<()> {
        let text = match (&self.stamp, self.format) {
            (Some(stamp), Format::Json | Format::Yaml) => super::text(&Stamped { stamp, page }, self.format),
            (Some(_), Format::Nested | Format::Ndjson | Format::Table) | (None, _) => super::text(page, self.format),
        };
        self.data(&text)
    }

    /// Writes text to stdout at once. Only what people read has colours to take out; documents go as they are.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        put(&mut self.out, text, self.color_out || !self.format.is_for_people())
    }

    /// Writes a line to stderr.
    pub fn note(&mut self, line: &str) -> io::Result<()> {
        put(&mut self.err, &format!("{line}\n"), self.color_err)
    }

    /// Writes a warning to stderr.
    pub fn warn(&mut self, line: &str) -> io::Result<()> {
        self.note(&format!("{}: {line}", style::paint(style::WARN, "WARNING")))
    }

    /// Writes an error to stderr.
    pub fn error(&mut self, line: &str) -> io::Result<()> {
        self.note(&format!("{}: {line}", style::paint(style::BAD, "ERROR")))
    }

    /// Writes to stderr what the operator has to answer, without ending the line.
    pub fn ask(&mut self, question: &str) -> io::Result<()> {
        put(&mut self.err, question, self.color_err)
    }
}

/// A page with what is known of its freshness, as the API wraps it.
struct Stamped<'a> {
    stamp: &'a Value,
    page: &'a dyn Page,
}

impl Page for Stamped<'_> {
    fn document(&self) -> Value {
        let mut document = self.stamp.clone();
        if let Value::Object(map) = &mut document {
            map.insert("value".into(), self.page.document());
        }
        document
    }

    fn nested(&self) -> String {
        self.page.nested()
    }

    fn table(&self) -> Table {
        self.page.table()
    }
}

fn put(stream: &mut dyn Write, text: &str, color: bool) -> io::Result<()> {
    if color {
        stream.write_all(text.as_bytes())?;
    } else {
        stream.write_all(style::plain(text).as_bytes())?;
    }
    stream.flush()
}
