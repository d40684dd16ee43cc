//! Columns under upper-case headings: nothing is wrapped or cut, so that the lines can be cut by other tools.

use super::style;

/// A table as it is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    lead: Vec<String>,
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    footer: Vec<String>,
}

impl Table {
    /// An empty table with these headings.
    pub fn new(heading: &[&'static str]) -> Self {
        Self { lead: Vec::new(), heading: heading.to_vec(), rows: Vec::new(), footer: Vec::new() }
    }

    /// Adds a row: as many cells as headings. Line ends and control characters are shown as `?`.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| style::clean(cell)).collect());
    }

    /// Adds lines above the headings.
    pub fn lead<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        self.lead.extend(lines.map(str::to_owned));
    }

    /// Adds a line below (or, in an empty table, instead of) the rows.
    pub fn note(&mut self, line: impl Into<String>) {
        self.footer.push(line.into());
    }

    /// The text, each line ended.
    pub fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(self.heading.iter().copied());
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| if cell.is_empty() { "-" } else { cell.as_str() }));
        }
        // The crate pads each cell on both sides; one leading space would be in the way of `cut`.
        let mut out: String = self.lead.iter().map(|line| format!("{line}\n")).collect();
        for line in table.lines() {
            out.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
            out.push('\n');
        }
        for line in &self.footer {
            out.push_str(line);
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&["MINION", "STATE"]);
        table.row(["web-a".into(), "accepted".into()]);
        table.row(["a-much-longer-name".into(), String::new()]);
        table.row(["x\ny".into(), "\u{1b}[31mred".into()]);
        table.note("3 in all");
        let expect = "\
MINION              STATE
web-a               accepted
a-much-longer-name  -
x?y                 ?[31mred
3 in all
";
        assert_eq!(table.text(), expect);
    }
}
