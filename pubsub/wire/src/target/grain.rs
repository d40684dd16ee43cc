//! `grain:glob` over a minion's grains, with Salt's nesting.
//!
//! Every colon may divide the grain's path from its value, so all of them are tried, from the left: `ip6:fe80::1` finds the
//! value `fe80::1` of `ip6`, and `disk:sda:*` finds that `disk` has `sda`. A list matches if one element does; an object
//! matches only `*`, which asks whether the grain exists. Upper and lower case are the same in values, as in Salt, so that
//! `True`, `true` and a boolean agree; in names of grains they are not.

use super::glob::Glob;
use super::value_text;
use crate::{Map, Value};

/// A parsed grain target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrainPattern(Vec<Split>);

/// One way to divide the text: this path, this value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Split {
    path: Vec<String>,
    value: Glob,
    exists: bool,
}

/// Most colons that are tried as the dividing one: grains nest two or three deep, an IPv6 address adds seven.
const SPLITS_MAX: usize = 16;

impl GrainPattern {
    /// Parses `text`; `None` if it has no colon, no grain before it or nothing behind it.
    pub fn new(text: &str) -> Option<Self> {
        let (name, value) = text.split_once(':')?;
        if name.is_empty() || value.is_empty() {
            return None;
        }
        let mut splits = Vec::new();
        for (at, _) in text.match_indices(':').take(SPLITS_MAX) {
            let (path, value) = (&text[..at], &text[at + 1..]);
            splits.push(Split {
                path: path.split(':').map(str::to_owned).collect(),
                value: Glob::new(&value.to_lowercase()),
                exists: value == "*",
            });
        }
        Some(Self(splits))
    }

    /// Whether these grains fit.
    pub fn matches(&self, grains: &Map) -> bool {
        self.0.iter().any(|split| {
            let Some((name, rest)) = split.path.split_first() else { return false };
            grains.get(name).is_some_and(|value| split.found(value, rest))
        })
    }
}

impl Split {
    /// Follows `path` into `value` and compares what is there. The path is at most [`SPLITS_MAX`] long, which bounds the
    /// recursion.
    fn found(&self, value: &Value, path: &[String]) -> bool {
        let Some((name, rest)) = path.split_first() else { return self.fits(value) };
        match value {
            Value::Object(map) => map.get(name).is_some_and(|inner| self.found(inner, rest)),
            Value::Array(items) => {
                let numbered = name.parse::<usize>().ok().and_then(|index| items.get(index));
                numbered.is_some_and(|item| self.found(item, rest))
                    || items.iter().filter(|item| item.is_object()).any(|item| self.found(item, path))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }

    fn fits(&self, value: &Value) -> bool {
        match value {
            Value::Object(_) => self.exists,
            Value::Array(items) => items.iter().any(|item| match item {
                Value::Object(_) | Value::Array(_) => self.exists,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => self.fits(item),
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                value_text(value).is_some_and(|text| self.value.matches(&text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grains_match_by_path_list_and_text() {
        let grains = json!({
            "os": "Debian", "osrelease": "12", "cpus": 8, "load": 1.5, "virtual": true, "none": null,
            "roles": ["web", "db"], "ip6": ["fe80::1", "fd00::2"], "empty": {},
            "disk": {"sda": {"size": 40, "tags": ["fast", "Boot"]}},
            "nets": [{"name": "eth0"}, {"name": "eth1"}],
        });
        let Value::Object(grains) = grains else { unreachable!("an object was written") };
        for (text, expect) in [
            ("os:Debian", true),
            ("os:debian", true),
            ("os:Deb*", true),
            ("os:Ubuntu", false),
            ("OS:Debian", false),
            ("osrelease:12", true),
            ("cpus:8", true),
            ("cpus:[0-9]", true),
            ("cpus:80", false),
            ("load:1.5", true),
            ("virtual:True", true),
            ("virtual:true", true),
            ("virtual:False", false),
            ("none:None", true),
            ("roles:db", true),
            ("roles:d?", true),
            ("roles:mail", false),
            ("roles:0:web", true),
            ("roles:9:web", false),
            ("ip6:fe80::1", true),
            ("ip6:fe80::*", true),
            ("disk:sda:size:40", true),
            ("disk:sda:size:4", false),
            ("disk:sda:tags:boot", true),
            ("disk:sda:*", true),
            ("disk:*", true),
            ("disk:sda", false),
            ("disk:sdb:*", false),
            ("empty:*", true),
            ("nets:name:eth1", true),
            ("nets:name:eth2", false),
            ("nets:1:name:eth1", true),
            ("absent:*", false),
        ] {
            let pattern = GrainPattern::new(text).expect(text);
            assert_eq!(pattern.matches(&grains), expect, "{text}");
        }
        for bad in ["", "os", ":", "os:", ":Debian"] {
            assert_eq!(GrainPattern::new(bad), None, "{bad:?}");
        }
    }
}
