//! `sys.*`: what this minion can do, read from the table of functions.

use super::{Args, Body, Context, Function, Outcomes, Parameter, all};
use saltern_wire::{Map, Value};
use serde_json::json;

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "sys.doc",
        doc: "Returns what functions do and take: all, those of the modules named, or the functions named.",
        parameters: &[Parameter::Rest("names")],
        pure: true,
        body: Body::Now(doc),
    },
    Function {
        name: "sys.list_functions",
        doc: "Returns the names of all functions, or of those in the modules named.",
        parameters: &[Parameter::Rest("modules")],
        pure: true,
        body: Body::Now(list_functions),
    },
];

/// Whether `name` is wanted: everything if nothing is named, a function by its name, a module's functions by its.
fn is_wanted(name: &str, wanted: &[String]) -> bool {
    let of = |want: &String| name == want || name.strip_prefix(want.as_str()).is_some_and(|rest| rest.starts_with('.'));
    wanted.is_empty() || wanted.iter().any(of)
}

fn doc(_: &Context, args: &Args) -> Outcomes {
    let wanted = args.rest_texts()?;
    let page = |function: &Function| Value::String(format!("{}\n\n    {}\n", function.doc, function.usage()));
    let pages: Map = all()
        .filter(|function| is_wanted(function.name, &wanted))
        .map(|function| (function.name.to_owned(), page(function)))
        .collect();
    Ok(Value::Object(pages).into())
}

fn list_functions(_: &Context, args: &Args) -> Outcomes {
    let wanted = args.rest_texts()?;
    let names: Vec<&str> = all().map(|function| function.name).filter(|name| is_wanted(name, &wanted)).collect();
    Ok(json!(names).into())
}
