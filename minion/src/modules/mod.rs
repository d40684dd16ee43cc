//! Execution modules: what a minion can do, in Salt's names and shapes. One module a file, one table of functions.
//!
//! ```text
//!   pure      runs inside the agent, may run again after a crash        test.ping, grains.get, status.*, …
//!   agent     the agent carries it out itself, because it is about it   mine.*, saltutil.*, grains.setval
//!   the rest  runs once, under a supervisor process of its own          cmd.run, test.sleep, …
//! ```
//!
//! **Invariants.** The table [`FUNCTIONS`] is the only list of functions: `sys.doc`, `sys.list_functions`, argument
//! checking and the choice of where a function runs read from it. An unknown function and wrong arguments are failed
//! returns in words, never errors of the minion.

pub mod args;
mod cmd;
mod grains;
mod mine;
mod network;
pub(crate) mod output;
mod saltutil;
mod status;
mod sys;
mod test;

pub use args::{Args, ArgumentError, Parameter};

use futures::future::BoxFuture;
use saltern_wire::io::Clock;
use saltern_wire::job::{Outcome, OutcomeKind};
use saltern_wire::{Map, MinionId, Value};
use std::sync::Arc;

/// Salt's retcode of a function that is not available.
const RETCODE_UNAVAILABLE: i32 = 254;

/// What a function may look at besides its arguments.
#[derive(Clone)]
pub struct Context {
    /// The minion.
    pub id: MinionId,
    /// Its grains.
    pub grains: Arc<Map>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Bytes of one stream of a command's output that are kept.
    pub output_bytes_max: usize,
}

/// One call of one function.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// `module.function`.
    pub function: String,
    /// Positional arguments.
    pub arguments: Vec<Value>,
    /// Keyword arguments.
    pub keywords: Map,
}

/// A function's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Returned {
    /// What it returns.
    pub value: Value,
    /// 0 for success.
    pub retcode: i32,
}

impl From<Value> for Returned {
    fn from(value: Value) -> Self {
        Self { value, retcode: 0 }
    }
}

/// Why a function has no result.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// Its arguments do not fit.
    Arguments(ArgumentError),
    /// It could not do what was asked.
    Failed(String),
}

impl From<ArgumentError> for Failure {
    fn from(error: ArgumentError) -> Self {
        Self::Arguments(error)
    }
}

/// What every function gives.
pub type Outcomes = Result<Returned, Failure>;

/// How a function runs.
#[derive(Clone, Copy)]
pub enum Body {
    /// At once, in microseconds.
    Now(fn(&Context, &Args) -> Outcomes),
    /// Reads files or asks the kernel: off the agent's loop.
    Blocking(fn(&Context, &Args) -> Outcomes),
    /// Waits for something.
    Later(fn(Context, Args) -> BoxFuture<'static, Outcomes>),
    /// The agent does it.
    Agent,
}

/// One function of the table.
#[derive(Clone, Copy)]
pub struct Function {
    /// `module.function`.
    pub name: &'static str,
    /// What it does, in a line or a few.
    pub doc: &'static str,
    /// What it takes.
    pub parameters: &'static [Parameter],
    /// It changes nothing: it needs no journal and may run again.
    pub pure: bool,
    /// How it runs.
    pub body: Body,
}

impl Function {
    /// `name(parameters)`.
    pub fn usage(&self) -> String {
        let parameters: Vec<String> = self.parameters.iter().map(ToString::to_string).collect();
        format!("{}({})", self.name, parameters.join(", "))
    }

    /// Binds the arguments of a call to the parameters.
    pub fn bind(&self, arguments: &[Value], keywords: &Map) -> Result<Args, Failure> {
        Ok(Args::bind(self.parameters, arguments, keywords)?)
    }

    /// Whether the agent carries it out itself.
    pub fn is_agents(&self) -> bool {
        matches!(self.body, Body::Agent)
    }
}

/// All functions by module.
pub const FUNCTIONS: &[&[Function]] = &[
    cmd::FUNCTIONS,
    grains::FUNCTIONS,
    mine::FUNCTIONS,
    network::FUNCTIONS,
    saltutil::FUNCTIONS,
    status::FUNCTIONS,
    sys::FUNCTIONS,
    test::FUNCTIONS,
];

/// All functions.
pub fn all() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.iter().copied().flatten()
}

/// The function with this name.
pub fn find(name: &str) -> Option<&'static Function> {
    all().find(|function| function.name == name)
}

/// Runs one call to its end. Functions of the agent are refused: whoever has an agent does not come here with them.
pub async fn run(context: Context, call: Invocation) -> Outcome {
    let clock = Arc::clone(&context.clock);
    let began = clock.monotonic();
    let result = match find(&call.function) {
        None => return unavailable(&call.function),
        Some(function) => match function.bind(&call.arguments, &call.keywords) {
            Ok(args) => run_bound(function, context, args).await,
            Err(failure) => Err(failure),
        },
    };
    let took = clock.monotonic().saturating_sub(began);
    outcome(&call.function, result, u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

async fn run_bound(function: &'static Function, context: Context, args: Args) -> Outcomes {
    match function.body {
        Body::Now(body) => body(&context, &args),
        Body::Blocking(body) => match tokio::task::spawn_blocking(move || body(&context, &args)).await {
            Ok(result) => result,
            Err(error) => Err(Failure::Failed(format!("{} did not finish: {error}", function.name))),
        },
        Body::Later(body) => body(context, args).await,
        Body::Agent => Err(Failure::Failed(format!("{} needs a running minion that is attached", function.name))),
    }
}

/// The outcome of a function that does not exist.
pub fn unavailable(function: &str) -> Outcome {
    Outcome {
        kind: OutcomeKind::Finished,
        success: false,
        retcode: RETCODE_UNAVAILABLE,
        value: Value::String(format!("'{function}' is not available.")),
        duration_ms: 0,
    }
}

/// Turns a function's result into the outcome of its job.
pub fn outcome(function: &str, result: Outcomes, duration_ms: u64) -> Outcome {
    let (value, retcode) = match result {
        Ok(returned) => (returned.value, returned.retcode),
        Err(Failure::Failed(text)) => (Value::String(text), 1),
        Err(Failure::Arguments(error)) => {
            let usage = find(function).map_or_else(|| function.to_owned(), Function::usage);
            (Value::String(format!("Passed invalid arguments to {function}: {error}. Usage: {usage}")), 1)
        }
    };
    Outcome { kind: OutcomeKind::Finished, success: retcode == 0, retcode, value, duration_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_complete_and_has_no_doubles() {
        let names: BTreeSet<&str> = all().map(|function| function.name).collect();
        assert_eq!(names.len(), all().count(), "a name stands twice");
        let wanted = "cmd.run cmd.run_all grains.delval grains.get grains.item grains.items grains.setval mine.delete \
            mine.flush mine.get mine.send mine.update mine.valid network.interfaces network.ip_addrs saltutil.find_job \
            saltutil.kill_job saltutil.refresh_grains saltutil.running status.diskusage status.loadavg status.meminfo \
            status.procs status.refusals status.uptime sys.doc sys.list_functions test.arg test.echo test.fail test.false test.ping \
            test.sleep test.version";
        assert_eq!(names, wanted.split_whitespace().collect::<BTreeSet<_>>());
        for function in all() {
            assert!(!function.doc.is_empty() && function.name.len() <= saltern_wire::limits::FUNCTION_NAME_BYTES_MAX);
        }
    }

    #[test]
    fn what_changes_something_is_not_pure() {
        for name in ["cmd.run", "cmd.run_all", "grains.setval", "grains.delval", "mine.send", "saltutil.kill_job"] {
            assert!(!find(name).expect("there").pure, "{name}");
        }
        for name in ["test.ping", "grains.get", "status.loadavg", "network.ip_addrs", "sys.doc", "saltutil.running"] {
            assert!(find(name).expect("there").pure, "{name}");
        }
    }
}
