//! `grains.*`: facts about the host. Reading them is pure; setting them is the agent's business, which keeps and reports
//! them.

use super::{Args, Body, Context, Function, Outcomes, Parameter};
use saltern_wire::{Map, Value};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "grains.delval",
        doc: "Removes a grain that was set with grains.setval.",
        parameters: &[Parameter::Required("key"), Parameter::Optional("destructive", "False")],
        pure: false,
        body: Body::Agent,
    },
    Function {
        name: "grains.get",
        doc: "Returns one grain; colons lead into nested ones. The default if there is none.",
        parameters: &[
            Parameter::Required("key"),
            Parameter::Optional("default", "''"),
            Parameter::Optional("delimiter", "':'"),
        ],
        pure: true,
        body: Body::Now(get),
    },
    Function {
        name: "grains.item",
        doc: "Returns the grains named, as a mapping.",
        parameters: &[Parameter::Rest("names"), Parameter::Keywords("kwargs")],
        pure: true,
        body: Body::Now(item),
    },
    Function { name: "grains.items", doc: "Returns all grains.", parameters: &[], pure: true, body: Body::Now(items) },
    Function {
        name: "grains.setval",
        doc: "Sets a grain, keeps it over restarts and reports it.",
        parameters: &[Parameter::Required("key"), Parameter::Required("val")],
        pure: false,
        body: Body::Agent,
    },
];

/// Follows `key` into nested mappings and lists.
fn lookup<'a>(grains: &'a Map, key: &str, delimiter: &str) -> Option<&'a Value> {
    if let Some(found) = grains.get(key) {
        return Some(found);
    }
    let mut parts = key.split(delimiter);
    let mut at = grains.get(parts.next()?)?;
    for part in parts {
        at = match at {
            Value::Object(map) => map.get(part)?,
            Value::Array(items) => items.get(part.parse::<usize>().ok()?)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        };
    }
    Some(at)
}

fn get(context: &Context, args: &Args) -> Outcomes {
    let key = args.required_text("key")?;
    let delimiter = args.text("delimiter")?.filter(|text| !text.is_empty()).unwrap_or_else(|| ":".into());
    let default = || args.get("default").cloned().unwrap_or_else(|| Value::String(String::new()));
    Ok(lookup(&context.grains, &key, &delimiter).cloned().unwrap_or_else(default).into())
}

fn item(context: &Context, args: &Args) -> Outcomes {
    let found =
        |key: &String| lookup(&context.grains, key, ":").cloned().unwrap_or_else(|| Value::String(String::new()));
    let all: Map = args.rest_texts()?.into_iter().map(|key| (key.clone(), found(&key))).collect();
    Ok(Value::Object(all).into())
}

fn items(context: &Context, _: &Args) -> Outcomes {
    Ok(Value::Object((*context.grains).clone()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn colons_lead_into_nested_grains() {
        let grains = json!({"a": {"b": [1, {"c": 2}]}, "x:y": 3}).as_object().expect("a mapping").clone();
        for (key, expect) in
            [("a:b:1:c", Some(json!(2))), ("x:y", Some(json!(3))), ("a:z", None), ("q", None), ("a:b:9", None)]
        {
            assert_eq!(lookup(&grains, key, ":").cloned(), expect, "{key}");
        }
    }
}
