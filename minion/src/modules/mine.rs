//! `mine.*`: values that minions publish for each other. The agent carries them out: it holds the session and the stamps.

use super::{Body, Function, Parameter};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "mine.delete",
        doc: "Removes one function's value from the mine.",
        parameters: &[Parameter::Required("fun")],
        pure: false,
        body: Body::Agent,
    },
    Function {
        name: "mine.flush",
        doc: "Removes all of this minion's values from the mine.",
        parameters: &[],
        pure: false,
        body: Body::Agent,
    },
    Function {
        name: "mine.get",
        doc: "Returns the mine values of a function, by minion, for the minions that match the target.",
        parameters: &[
            Parameter::Required("tgt"),
            Parameter::Required("fun"),
            Parameter::Optional("tgt_type", "'glob'"),
        ],
        pure: true,
        body: Body::Agent,
    },
    Function {
        name: "mine.send",
        doc: "Runs a function and stores its value in the mine; mine_function= names the function if the first argument \
              is an alias. Returns True once the value is committed.",
        parameters: &[Parameter::Required("name"), Parameter::Rest("args"), Parameter::Keywords("kwargs")],
        pure: false,
        body: Body::Agent,
    },
    Function {
        name: "mine.update",
        doc: "Runs the configured mine_functions and stores their values. Returns True once they are committed.",
        parameters: &[Parameter::Optional("clear", "False")],
        pure: false,
        body: Body::Agent,
    },
    Function {
        name: "mine.valid",
        doc: "Returns the configured mine_functions that this minion has, with their arguments.",
        parameters: &[],
        pure: true,
        body: Body::Agent,
    },
];
