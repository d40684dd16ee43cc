//! `saltutil.*`: what this minion is doing. The agent carries them out: they are about it.

use super::{Body, Function, Parameter};

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "saltutil.find_job",
        doc: "Returns what is known about a running job, an empty mapping if it does not run here.",
        parameters: &[Parameter::Required("jid")],
        pure: true,
        body: Body::Agent,
    },
    Function {
        name: "saltutil.kill_job",
        doc: "Ends a running job with everything it started. The job returns as failed and says so.",
        parameters: &[Parameter::Required("jid")],
        pure: false,
        body: Body::Agent,
    },
    Function {
        name: "saltutil.refresh_grains",
        doc: "Collects the grains anew and reports them. Returns True once they are committed.",
        parameters: &[],
        pure: false,
        body: Body::Agent,
    },
    Function {
        name: "saltutil.running",
        doc: "Returns the jobs that run now.",
        parameters: &[],
        pure: true,
        body: Body::Agent,
    },
];
