//! One JSON document, indented by four as Salt's.

use saltern_wire::Value;
use serde::Serialize;

/// `value` with a final newline.
pub fn text(value: &Value) -> String {
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned() + "\n",
        // A Vec takes every byte and a Value has no unrepresentable part; the compact form cannot fail either.
        Err(_) => format!("{value}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn indents_by_four() {
        assert_eq!(text(&json!({"web-a": true})), "{\n    \"web-a\": true\n}\n");
        assert_eq!(text(&json!([])), "[]\n");
    }
}
