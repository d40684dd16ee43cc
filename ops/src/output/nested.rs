//! Salt's `nested` form: the shape, the order and the colours that operators know.
//!
//! Objects are indented by four under `----------` (except at the left edge), their keys sorted; lists are `- item`, nested
//! ones under `|_`; text is shown line by line; True, False and None as Python writes them. Keys are red instead of cyan in
//! what failed.

use super::style::{self, BAD, KEY, SCALAR, TEXT};
use anstyle::Style;
use saltern_wire::Value;

/// How a value is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Keys in their own order instead of sorted: for documents of ours that lead with what matters.
    pub ordered: bool,
    /// Keys in red: what failed.
    pub failed: bool,
}

/// Salt's layout.
pub const SALT: Layout = Layout { ordered: false, failed: false };
/// Salt's layout of what failed.
pub const FAILED: Layout = Layout { ordered: false, failed: true };
/// Keys in the order of the document.
pub const ORDERED: Layout = Layout { ordered: true, failed: false };

/// `value` from the left edge, each line ended.
pub fn text(value: &Value, layout: Layout) -> String {
    let mut writer = Writer { out: String::new(), layout };
    writer.value(value, 0, "");
    writer.out
}

/// One minion and what it returned.
pub fn entry(name: &str, value: &Value, layout: Layout) -> String {
    let mut writer = Writer { out: String::new(), layout };
    writer.entry(name, value, 0);
    writer.out
}

struct Writer {
    out: String,
    layout: Layout,
}

impl Writer {
    fn line(&mut self, indent: usize, style: Style, text: &str, suffix: &str) {
        self.out.push_str(&" ".repeat(indent));
        self.out.push_str(&style::paint(style, text));
        self.out.push_str(suffix);
        self.out.push('\n');
    }

    fn key_style(&self, fine: Style) -> Style {
        if self.layout.failed { BAD } else { fine }
    }

    /// The recursion is as deep as the value, which the JSON parser has bounded to 128.
    fn value(&mut self, value: &Value, indent: usize, prefix: &str) {
        match value {
            Value::Null => self.line(indent, SCALAR, &format!("{prefix}None"), ""),
            Value::Bool(true) => self.line(indent, SCALAR, &format!("{prefix}True"), ""),
            Value::Bool(false) => self.line(indent, SCALAR, &format!("{prefix}False"), ""),
            Value::Number(number) => self.line(indent, SCALAR, &format!("{prefix}{number}"), ""),
            Value::String(text) => self.string(text, indent, prefix),
            Value::Array(items) => {
                for item in items {
                    self.item(item, indent);
                }
            }
            Value::Object(map) => {
                if indent > 0 {
                    self.line(indent, self.key_style(KEY), "----------", "");
                }
                let mut entries: Vec<(&String, &Value)> = map.iter().collect();
                if !self.layout.ordered {
                    entries.sort_by(|a, b| a.0.cmp(b.0));
                }
                for (name, value) in entries {
                    self.entry(name, value, indent);
                }
            }
        }
    }

    fn entry(&mut self, name: &str, value: &Value, indent: usize) {
        self.line(indent, self.key_style(KEY), &style::clean(name), ":");
        self.value(value, indent + 4, "");
    }

    fn item(&mut self, item: &Value, indent: usize) {
        match item {
            Value::Object(_) | Value::Array(_) => {
                self.line(indent, self.key_style(TEXT), "|_", "");
                self.value(item, indent + 2, "");
            }
            // Python's form shows nothing at all for an empty text; a member of a list should be seen.
            Value::String(text) if text.is_empty() => self.line(indent, TEXT, "-", ""),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => self.value(item, indent, "- "),
        }
    }

    /// Later lines are indented below the first one's text.
    fn string(&mut self, text: &str, indent: usize, prefix: &str) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        for (number, line) in text.lines().enumerate() {
            let before = if number == 0 { prefix.to_owned() } else { " ".repeat(prefix.len()) };
            self.line(indent, TEXT, &format!("{before}{}", style::clean(line)), "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: &Value, expect: &str) {
        assert_eq!(style::plain(&text(value, SALT)), expect, "{value}");
    }

    #[test]
    fn prints_as_in_the_transcripts() {
        check(&json!({"web-a": true}), "web-a:\n    True\n");
        check(&json!({"web-b": ""}), "web-b:\n");
        check(&json!({"web-a": "'no.such_fn' is not available."}), "web-a:\n    'no.such_fn' is not available.\n");
        check(
            &json!({"web-a": {"stdout": "hi", "pid": 24984, "stderr": "", "retcode": 0}}),
            "web-a:\n    ----------\n    pid:\n        24984\n    retcode:\n        0\n    stderr:\n    stdout:\n        hi\n",
        );
        check(
            &json!({"web-a": {"os": "Debian", "osrelease": "12"}}),
            "web-a:\n    ----------\n    os:\n        Debian\n    osrelease:\n        12\n",
        );
        check(&json!({"down": [], "up": ["web-a", "web-b"]}), "down:\nup:\n    - web-a\n    - web-b\n");
        check(
            &json!({"20261123000528429535": {
                "Arguments": ["20261123000523274339"], "Function": "saltutil.find_job",
                "StartTime": "2026, Nov 23 00:05:28.429535", "Target": ["web-a", "web-b"], "Target-type": "list", "User": "root",
            }}),
            "20261123000528429535:
    ----------
    Arguments:
        - 20261123000523274339
    Function:
        saltutil.find_job
    StartTime:
        2026, Nov 23 00:05:28.429535
    Target:
        - web-a
        - web-b
    Target-type:
        list
    User:
        root
",
        );
    }

    #[test]
    fn lists_nest_and_text_keeps_its_lines() {
        check(
            &json!({"a": [1, null, "x\ny", ["in", "ner"], {"k": false}, ""]}),
            "a:\n    - 1\n    - None\n    - x\n      y\n    |_\n      - in\n      - ner\n    |_\n      ----------\n      k:\n          False\n    -\n",
        );
        check(&json!({"a": "one\r\ntwo\n\nfour\n"}), "a:\n    one\n    two\n    \n    four\n");
        check(&json!({}), "");
        check(&json!({"a": {}}), "a:\n    ----------\n");
        check(&json!("text"), "text\n");
    }

    #[test]
    fn colours_are_salts_and_escapes_of_others_do_not_pass() {
        assert_eq!(text(&json!({"a": true}), SALT), "\u{1b}[36ma\u{1b}[0m:\n    \u{1b}[1m\u{1b}[33mTrue\u{1b}[0m\n");
        assert_eq!(text(&json!({"a": "x"}), FAILED), "\u{1b}[31ma\u{1b}[0m:\n    \u{1b}[32mx\u{1b}[0m\n");
        check(&json!({"a": "\u{1b}]0;title\u{7}\u{9b}31m"}), "a:\n    ?]0;title??31m\n");
    }
}
