//! One YAML document.

use saltern_wire::Value;

/// `value` in block style, ended. JSON is YAML: it stands in for what the writer refuses.
pub fn text(value: &Value) -> String {
    match serde_saphyr::to_string(value) {
        Ok(mut text) => {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }
        Err(_) => super::json::text(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_back_as_what_was_written() {
        for value in [
            json!({"web-a": {"return": true, "retcode": 0}, "list": [1, "two", null, 3.5]}),
            json!({"tricky": ["true", "12", "null", "a: b", "# no", "x\ny\n", "", "-", "é", "\u{1b}[31m", "0x1f", "1e3"]}),
            json!("text"),
            json!([]),
        ] {
            let read: Value = serde_saphyr::from_str(&text(&value)).unwrap_or_else(|error| panic!("{value}: {error}"));
            assert_eq!(read, value, "{}", text(&value));
        }
    }
}
