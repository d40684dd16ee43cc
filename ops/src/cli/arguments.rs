//! Arguments of a function as an operator types them: `5`, `true`, `[1, 2]`, `name=value`.
//!
//! | typed | becomes |
//! |---|---|
//! | `12` `-3` `1.5` | a number, unless it has a leading zero |
//! | `true` `True` `false` `False` `null` | what it says |
//! | `[…]` `{…}` | a list or object, JSON or YAML flow; text if it is neither |
//! | `"…"` `'…'` | the text between the quotes: how to keep `"5"` a text |
//! | `name=value` | a keyword argument, its value read by the same table; not `a==b` |
//! | anything else | text, to the letter |

use saltern_wire::{Map, Value};

/// Arguments by position and by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arguments {
    /// By position.
    pub positional: Vec<Value>,
    /// By name.
    pub keywords: Map,
}

/// A name was given twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the argument {0:?} is given twice")]
pub struct TwiceError(String);

/// Reads what was typed.
pub fn parse(words: &[String]) -> Result<Arguments, TwiceError> {
    let mut arguments = Arguments::default();
    for word in words {
        match keyword(word) {
            Some((name, text)) => {
                if arguments.keywords.insert(name.to_owned(), value(text)).is_some() {
                    return Err(TwiceError(name.to_owned()));
                }
            }
            None => arguments.positional.push(value(word)),
        }
    }
    Ok(arguments)
}

/// Splits `name=value` where Salt would: a name of letters, digits, `_`, `-` and `.`, not beginning with a digit.
fn keyword(word: &str) -> Option<(&str, &str)> {
    let (name, text) = word.split_once('=')?;
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
    let rest = chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    (first && rest && !text.starts_with('=')).then_some((name, text))
}

/// Reads one value. Never fails: what is nothing else is text.
pub fn value(text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match text {
        "true" | "True" => return Value::Bool(true),
        "false" | "False" => return Value::Bool(false),
        "null" => return Value::Null,
        _ => {}
    }
    match (text.chars().next(), text.chars().last()) {
        (Some('['), Some(']')) | (Some('{'), Some('}')) => collection(text).unwrap_or_else(as_text),
        (Some('"'), Some('"')) if text.len() > 1 => serde_json::from_str(text).unwrap_or_else(|_| as_text()),
        (Some('\''), Some('\'')) if text.len() > 1 => {
            let inner = &text[1..text.len() - 1];
            if inner.contains('\'') { as_text() } else { Value::String(inner.to_owned()) }
        }
        _ => number(text).unwrap_or_else(as_text),
    }
}

/// A list or object in JSON or in YAML's flow form.
fn collection(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let value: Value = serde_saphyr::from_str(text).ok()?;
    (value.is_array() || value.is_object()).then_some(value)
}

/// A plain decimal number. Leading zeros, exponents and underscores stay text: they are ids and hashes more often.
fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.starts_with(|c: char| c.is_ascii_digit());
    if !plain { None } else { serde_json::from_str(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_read_as_in_salt() {
        for (text, expect) in [
            ("5", json!(5)),
            ("-3", json!(-3)),
            ("1.5", json!(1.5)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("007", json!("007")),
            ("1.2.3", json!("1.2.3")),
            ("1e5", json!("1e5")),
            ("1_000", json!("1_000")),
            ("-", json!("-")),
            ("-l", json!("-l")),
            (".5", json!(".5")),
            ("5.", json!("5.")),
            ("true", json!(true)),
            ("False", json!(false)),
            ("null", json!(null)),
            ("yes", json!("yes")),
            ("[1, \"a\"]", json!([1, "a"])),
            ("[a, b]", json!(["a", "b"])),
            ("{\"a\": {\"b\": 1}}", json!({"a": {"b": 1}})),
            ("{a: 1}", json!({"a": 1})),
            ("[ -f /etc/passwd ]", json!(["-f /etc/passwd"])),
            ("[[ -f x ]] && y", json!("[[ -f x ]] && y")),
            ("\"5\"", json!("5")),
            ("'5'", json!("5")),
            ("\"a\" \"b\"", json!("\"a\" \"b\"")),
            ("'a' 'b'", json!("'a' 'b'")),
            ("'", json!("'")),
            ("", json!("")),
            ("uptime -p", json!("uptime -p")),
            ("a: b", json!("a: b")),
            ("# no comment", json!("# no comment")),
        ] {
            assert_eq!(value(text), expect, "{text}");
        }
    }

    #[test]
    fn keywords_are_told_from_text() {
        let words = ["echo hi", "cwd=/tmp", "timeout=5", "env={\"A\": \"1\"}", "a==b", "1=2", "=x", "x y=z", "shell="];
        let arguments = parse(&words.map(str::to_owned)).expect("no name is given twice");
        assert_eq!(arguments.positional, ["echo hi", "a==b", "1=2", "=x", "x y=z"].map(Value::from));
        let keywords = json!({"cwd": "/tmp", "timeout": 5, "env": {"A": "1"}, "shell": ""});
        assert_eq!(Value::Object(arguments.keywords), keywords);
        assert_eq!(parse(&["a=1".into(), "a=2".into()]), Err(TwiceError("a".into())));
    }
}
