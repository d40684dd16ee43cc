//! Salt's nested output of one value.

use saltern_wire::Value;

/// The value as Salt prints it, each line indented by `indent` spaces.
pub(super) fn render(value: &Value, indent: usize) -> String {
    let mut lines = Vec::new();
    put(&mut lines, value, indent, "");
    lines.join("\n")
}

fn put(lines: &mut Vec<String>, value: &Value, indent: usize, prefix: &str) {
    let pad = " ".repeat(indent);
    match value {
        Value::Null => lines.push(format!("{pad}{prefix}None")),
        Value::Bool(true) => lines.push(format!("{pad}{prefix}True")),
        Value::Bool(false) => lines.push(format!("{pad}{prefix}False")),
        Value::Number(number) => lines.push(format!("{pad}{prefix}{number}")),
        Value::String(text) => {
            for (at, line) in text.lines().enumerate() {
                let shown = if at == 0 { prefix.to_owned() } else { " ".repeat(prefix.len()) };
                lines.push(format!("{pad}{shown}{line}").trim_end().to_owned());
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(_) | Value::Array(_) => {
                        lines.push(format!("{pad}{prefix}|_"));
                        put(lines, item, indent + 2, "");
                    }
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                        put(lines, item, indent, "- ")
                    }
                }
            }
        }
        Value::Object(map) => {
            lines.push(format!("{pad}{prefix}----------"));
            for (key, value) in map {
                lines.push(format!("{pad}{key}:"));
                put(lines, value, indent + 4, "");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prints_as_salt_does() {
        let value = json!({"pid": 7, "stderr": "", "list": ["a", true], "text": "x\ny"});
        let expect = "    ----------\n    pid:\n        7\n    stderr:\n    list:\n        - a\n        - True\n    text:\n        x\n        y";
        assert_eq!(render(&value, 4), expect);
        assert_eq!(render(&json!(true), 4), "    True");
    }
}
