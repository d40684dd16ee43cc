//! `test.*`: whether a minion answers, and what it makes of its arguments.

use super::{Args, Body, Context, Failure, Function, Outcomes, Parameter, Returned};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::json;

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "test.arg",
        doc: "Returns the positional and keyword arguments as they arrived.",
        parameters: &[Parameter::Rest("args"), Parameter::Keywords("kwargs")],
        pure: true,
        body: Body::Now(arg),
    },
    Function {
        name: "test.echo",
        doc: "Returns its argument.",
        parameters: &[Parameter::Required("text")],
        pure: true,
        body: Body::Now(echo),
    },
    Function {
        name: "test.fail",
        doc: "Fails with retcode 1 and returns its argument.",
        parameters: &[Parameter::Optional("text", "'test.fail was asked to fail'")],
        pure: true,
        body: Body::Now(fail),
    },
    Function {
        name: "test.false",
        doc: "Returns False and retcode 1, as Salt does.",
        parameters: &[],
        pure: true,
        body: Body::Now(no),
    },
    Function {
        name: "test.ping",
        doc: "Returns True: the minion is up and answers.",
        parameters: &[],
        pure: true,
        body: Body::Now(ping),
    },
    Function {
        name: "test.sleep",
        doc: "Waits for so many seconds and returns True. Runs as a job of its own, like a command.",
        parameters: &[Parameter::Required("length")],
        pure: false,
        body: Body::Later(sleep),
    },
    Function {
        name: "test.version",
        doc: "Returns the version of the minion's program.",
        parameters: &[],
        pure: true,
        body: Body::Now(version),
    },
];

fn arg(_: &Context, args: &Args) -> Outcomes {
    Ok(json!({"args": args.rest(), "kwargs": args.keywords()}).into())
}

fn echo(_: &Context, args: &Args) -> Outcomes {
    Ok(args.get("text").cloned().unwrap_or_default().into())
}

fn fail(_: &Context, args: &Args) -> Outcomes {
    let value = args.get("text").cloned().unwrap_or_else(|| json!("test.fail was asked to fail"));
    Ok(Returned { value, retcode: 1 })
}

fn no(_: &Context, _: &Args) -> Outcomes {
    Ok(Returned { value: json!(false), retcode: 1 })
}

fn ping(_: &Context, _: &Args) -> Outcomes {
    Ok(json!(true).into())
}

fn version(_: &Context, _: &Args) -> Outcomes {
    Ok(json!(env!("CARGO_PKG_VERSION")).into())
}

fn sleep(_: Context, args: Args) -> BoxFuture<'static, Outcomes> {
    async move {
        let length = args.seconds("length")?.ok_or_else(|| Failure::Failed("length is missing".into()))?;
        tokio::time::sleep(length).await;
        Ok(json!(true).into())
    }
    .boxed()
}
