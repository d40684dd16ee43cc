//! One JSON document a line.

use saltern_wire::Value;

/// `value` on one line, ended.
pub fn line(value: &Value) -> String {
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn newlines_stay_inside() {
        assert_eq!(super::line(&serde_json::json!({"a": "x\ny"})), "{\"a\":\"x\\ny\"}\n");
    }
}
