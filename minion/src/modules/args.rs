//! Arguments of one call, bound to the parameters of its function.
//!
//! Values arrive as JSON, positional and by keyword. What does not fit is refused with the function's usage, so that the
//! operator can mend the command from the answer alone.

use saltern_wire::{Map, Value};
use std::fmt;

/// One parameter of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// Has to be given.
    Required(&'static str),
    /// May be given; the text is what usage shows as its default.
    Optional(&'static str, &'static str),
    /// Takes all further positional arguments.
    Rest(&'static str),
    /// Takes all further keyword arguments.
    Keywords(&'static str),
}

impl Parameter {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Required(name) | Self::Optional(name, _) | Self::Rest(name) | Self::Keywords(name) => name,
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required(name) => f.write_str(name),
            Self::Optional(name, default) => write!(f, "{name}={default}"),
            Self::Rest(name) => write!(f, "*{name}"),
            Self::Keywords(name) => write!(f, "**{name}"),
        }
    }
}

/// Bound arguments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Args {
    named: Map,
    rest: Vec<Value>,
    keywords: Map,
}

/// What is wrong with the arguments, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ArgumentError(pub String);

impl Args {
    /// Binds positional arguments and keywords to parameters. Keywords that start with `__` belong to Salt's own plumbing
    /// and are left out.
    pub fn bind(parameters: &[Parameter], positional: &[Value], keywords: &Map) -> Result<Self, ArgumentError> {
        let mut args = Self::default();
        let names = parameters.iter().filter(|p| matches!(p, Parameter::Required(_) | Parameter::Optional(..)));
        let mut names = names.map(|parameter| parameter.name());
        let takes_rest = parameters.iter().any(|p| matches!(p, Parameter::Rest(_)));
        let takes_keywords = parameters.iter().any(|p| matches!(p, Parameter::Keywords(_)));
        for value in positional {
            match names.next() {
                Some(name) => drop(args.named.insert(name.into(), value.clone())),
                None if takes_rest => args.rest.push(value.clone()),
                None => {
                    let most = parameters.len();
                    return Err(ArgumentError(format!(
                        "it takes at most {most} positional arguments, {} were given",
                        positional.len()
                    )));
                }
            }
        }
        for (key, value) in keywords.iter().filter(|(key, _)| !key.starts_with("__")) {
            let known = parameters
                .iter()
                .any(|p| matches!(p, Parameter::Required(name) | Parameter::Optional(name, _) if *name == key));
            if known {
                if args.named.insert(key.clone(), value.clone()).is_some() {
                    return Err(ArgumentError(format!("{key} was given twice")));
                }
            } else if takes_keywords {
                args.keywords.insert(key.clone(), value.clone());
            } else {
                return Err(ArgumentError(format!("it has no parameter {key:?}")));
            }
        }
        for parameter in parameters {
            if let Parameter::Required(name) = parameter
                && !args.named.contains_key(*name)
            {
                return Err(ArgumentError(format!("{name} is missing")));
            }
        }
        Ok(args)
    }

    /// The value of `name`; `null` counts as not given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.named.get(name).filter(|value| !value.is_null())
    }

    /// A text; numbers and booleans are read as they would be typed, because a command line cannot tell them apart.
    pub fn text(&self, name: &str) -> Result<Option<String>, ArgumentError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(other @ (Value::Null | Value::Array(_) | Value::Object(_))) => {
                Err(ArgumentError(format!("{name} has to be a text, not {other}")))
            }
        }
    }

    /// A text that has to be there.
    pub fn required_text(&self, name: &str) -> Result<String, ArgumentError> {
        self.text(name)?.ok_or_else(|| ArgumentError(format!("{name} is missing")))
    }

    /// A truth value, `default` when not given.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ArgumentError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(other) => Err(ArgumentError(format!("{name} has to be true or false, not {other}"))),
        }
    }

    /// Seconds, whole or broken, from 0 to ten years.
    pub fn seconds(&self, name: &str) -> Result<Option<std::time::Duration>, ArgumentError> {
        let refuse = |value: &Value| ArgumentError(format!("{name} has to be a number of seconds, not {value}"));
        let Some(value) = self.get(name) else { return Ok(None) };
        let seconds = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let seconds = seconds.filter(|seconds| (0.0..=315_360_000.0).contains(seconds)).ok_or_else(|| refuse(value))?;
        Ok(Some(std::time::Duration::from_secs_f64(seconds)))
    }

    /// An object of texts, such as an environment.
    pub fn texts_by_name(&self, name: &str) -> Result<Vec<(String, String)>, ArgumentError> {
        let refuse =
            |value: &Value| ArgumentError(format!("{name} has to be a mapping of names to texts, not {value}"));
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let maps: Vec<&Map> = match value {
            Value::Object(map) => vec![map],
            // Salt takes a list of one-key mappings as well.
            Value::Array(items) => {
                items.iter().map(Value::as_object).collect::<Option<_>>().ok_or_else(|| refuse(value))?
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return Err(refuse(value)),
        };
        let mut pairs = Vec::new();
        for (key, value) in maps.into_iter().flatten() {
            match value {
                Value::String(text) => pairs.push((key.clone(), text.clone())),
                Value::Number(_) | Value::Bool(_) => pairs.push((key.clone(), value.to_string())),
                Value::Null => pairs.push((key.clone(), String::new())),
                Value::Array(_) | Value::Object(_) => return Err(refuse(value)),
            }
        }
        Ok(pairs)
    }

    /// Positional arguments beyond the named ones.
    pub fn rest(&self) -> &[Value] {
        &self.rest
    }

    /// The further positional arguments as texts.
    pub fn rest_texts(&self) -> Result<Vec<String>, ArgumentError> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => Err(ArgumentError(format!("{value} has to be a text"))),
        };
        self.rest.iter().map(text).collect()
    }

    /// Keyword arguments beyond the named ones.
    pub fn keywords(&self) -> &Map {
        &self.keywords
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PARAMETERS: &[Parameter] =
        &[Parameter::Required("cmd"), Parameter::Optional("cwd", "None"), Parameter::Optional("timeout", "None")];

    fn bound(positional: Value, keywords: Value) -> Result<Args, String> {
        let positional = positional.as_array().expect("a list").clone();
        let keywords = keywords.as_object().expect("a mapping").clone();
        Args::bind(PARAMETERS, &positional, &keywords).map_err(|error| error.to_string())
    }

    #[test]
    fn positions_and_names_meet() {
        let args = bound(json!(["ls", "/"]), json!({"timeout": "1.5", "__pub_jid": "x"})).expect("fits");
        assert_eq!(args.required_text("cmd").expect("given"), "ls");
        assert_eq!(args.seconds("timeout").expect("a number"), Some(std::time::Duration::from_millis(1500)));
        assert_eq!(bound(json!([5]), json!({})).expect("fits").text("cmd"), Ok(Some("5".into())));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (positional, keywords, expect) in [
            (json!([]), json!({}), "cmd is missing"),
            (json!(["a", "b", 1, 2]), json!({}), "at most 3"),
            (json!(["a"]), json!({"cmd": "b"}), "cmd was given twice"),
            (json!(["a"]), json!({"cdw": "b"}), "no parameter \"cdw\""),
        ] {
            let error = bound(positional, keywords).expect_err(expect);
            assert!(error.contains(expect), "{error}");
        }
        let args = bound(json!([["a"]]), json!({"timeout": "soon"})).expect("bound");
        assert!(args.text("cmd").is_err() && args.seconds("timeout").is_err());
    }
}
