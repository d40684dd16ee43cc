//! The functions that the agent carries out itself: `mine.*`, `saltutil.*` and the setting of grains.
//!
//! Each is a small conversation with the agent's loop over the [`Desk`]; none touches its state.

use super::desk::{Ask, Desk};
use crate::config::MineFunction;
use crate::executor::Work;
use crate::modules::{Args, ArgumentError, Context, Failure, Invocation, Outcomes, find, outcome, unavailable};
use saltern_wire::job::Outcome;
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{JobId, Map, Value};
use serde_json::json;

/// Why the loop could not do what it was asked, in words for the return.
pub(super) type Failed = String;

/// Carries out one call of a function of the agent.
pub(super) async fn carry_out(desk: Desk, context: Context, call: Invocation) -> Outcome {
    let clock = context.clock.clone();
    let began = clock.monotonic();
    let Some(function) = find(&call.function) else { return unavailable(&call.function) };
    let result = match function.bind(&call.arguments, &call.keywords) {
        Ok(args) => dispatch(function.name, &desk, &context, &args).await,
        Err(failure) => Err(failure),
    };
    let took = clock.monotonic().saturating_sub(began);
    outcome(function.name, result, u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

async fn dispatch(name: &str, desk: &Desk, context: &Context, args: &Args) -> Outcomes {
    match name {
        "mine.send" => mine_send(desk, context, args).await,
        "mine.update" => mine_update(desk, context, args).await,
        "mine.delete" => mine_delete(desk, args).await,
        "mine.flush" => mine_flush(desk).await,
        "mine.get" => mine_get(desk, args).await,
        "mine.valid" => Ok(mine_valid(desk).into()),
        "saltutil.running" => running(desk).await,
        "status.refusals" => Ok(Value::Object(desk.ask(Ask::Refusals).await?).into()),
        "saltutil.find_job" => find_job(desk, args).await,
        "saltutil.kill_job" => kill_job(desk, args).await,
        "saltutil.refresh_grains" => refresh_grains(desk).await,
        "grains.setval" => set_grain(desk, args, true).await,
        "grains.delval" => set_grain(desk, args, false).await,
        other => Err(Failure::Failed(format!("{other} is in the table of functions, but nothing carries it out"))),
    }
}

/// Runs one mine function.
async fn evaluate(desk: &Desk, context: &Context, entry: &MineFunction) -> Result<Value, Failure> {
    if find(&entry.function).is_none_or(|function| function.is_agents()) {
        return Err(Failure::Failed(format!("'{}' is not available for the mine.", entry.function)));
    }
    let call = Invocation {
        function: entry.function.clone(),
        arguments: entry.arguments.clone(),
        keywords: entry.keywords.clone(),
    };
    let outcome = desk.executor.call(context.clone(), call).await;
    if outcome.success {
        Ok(outcome.value)
    } else {
        Err(Failure::Failed(format!("{} failed with retcode {}: {}", entry.function, outcome.retcode, outcome.value)))
    }
}

/// Runs all configured functions; one that fails is left out and logged.
async fn evaluate_all(desk: &Desk, context: &Context) -> Vec<(String, Option<Value>)> {
    let mut values = Vec::new();
    for entry in desk.mine_functions.iter() {
        match evaluate(desk, context, entry).await {
            Ok(value) => values.push((entry.name.clone(), Some(value))),
            Err(failure) => tracing::warn!(function = %entry.name, ?failure, "a mine function failed"),
        }
    }
    values
}

/// The report of the mine that is due by the clock.
pub(super) async fn update_by_itself(desk: Desk, context: Context) {
    let values = evaluate_all(&desk, &context).await;
    // A loop that is gone needs no report.
    let _ = desk.tell(Ask::ReportChanged(values)).await;
}

async fn report(desk: &Desk, values: Vec<(String, Option<Value>)>) -> Outcomes {
    match desk.ask(|reply| Ask::Report(values, reply)).await? {
        Ok(()) => Ok(json!(true).into()),
        Err(error) => Err(Failure::Failed(error.to_string())),
    }
}

async fn mine_send(desk: &Desk, context: &Context, args: &Args) -> Outcomes {
    let name = args.required_text("name")?;
    let mut keywords = args.keywords().clone();
    let function = match keywords.shift_remove("mine_function") {
        None => name.clone(),
        Some(Value::String(function)) => function,
        Some(other) => return Err(ArgumentError(format!("mine_function {other} is no name")).into()),
    };
    let entry = MineFunction { name: name.clone(), function, arguments: args.rest().to_vec(), keywords };
    let value = evaluate(desk, context, &entry).await?;
    report(desk, vec![(name, Some(value))]).await
}

async fn mine_update(desk: &Desk, context: &Context, args: &Args) -> Outcomes {
    let mut values = evaluate_all(desk, context).await;
    if args.flag("clear", false)? {
        let names = desk.ask(Ask::MineNames).await?;
        let gone = names.into_iter().filter(|name| !values.iter().any(|(kept, _)| kept == name));
        let gone: Vec<(String, Option<Value>)> = gone.map(|name| (name, None)).collect();
        values.extend(gone);
    }
    report(desk, values).await
}

async fn mine_delete(desk: &Desk, args: &Args) -> Outcomes {
    report(desk, vec![(args.required_text("fun")?, None)]).await
}

async fn mine_flush(desk: &Desk) -> Outcomes {
    let names = desk.ask(Ask::MineNames).await?;
    report(desk, names.into_iter().map(|name| (name, None)).collect()).await
}

async fn mine_get(desk: &Desk, args: &Args) -> Outcomes {
    let (expression, function) = (args.required_text("tgt")?, args.required_text("fun")?);
    let kind = match args.text("tgt_type")?.as_deref() {
        None | Some("glob") => TargetKind::Glob,
        Some("pcre") => TargetKind::Regex,
        Some("list") => TargetKind::List,
        Some("grain") => TargetKind::Grain,
        Some("compound") => TargetKind::Compound,
        Some(other) => {
            let text = format!("tgt_type {other:?} is none of glob, pcre, list, grain, compound");
            return Err(ArgumentError(text).into());
        }
    };
    let entries = desk.ask(|reply| Ask::MineGet(Target { kind, expression }, function, reply)).await?;
    let entries = entries.map_err(Failure::Failed)?;
    let values: Map = entries.into_iter().map(|entry| (entry.minion.to_string(), entry.value)).collect();
    Ok(Value::Object(values).into())
}

fn mine_valid(desk: &Desk) -> Value {
    let entry = |entry: &MineFunction| {
        let mut described = Map::new();
        described.insert(entry.function.clone(), json!({"args": entry.arguments, "kwargs": entry.keywords}));
        (entry.name.clone(), Value::Object(described))
    };
    let known = |entry: &&MineFunction| find(&entry.function).is_some_and(|function| !function.is_agents());
    Value::Object(desk.mine_functions.iter().filter(known).map(entry).collect())
}

/// What Salt shows of a running job.
fn describe(work: &Work) -> Value {
    let kind = match work.target.kind {
        TargetKind::Glob => "glob",
        TargetKind::Regex => "pcre",
        TargetKind::List => "list",
        TargetKind::Grain => "grain",
        TargetKind::Compound => "compound",
    };
    let mut arguments = work.arguments.clone();
    if !work.keywords.is_empty() {
        arguments.push(Value::Object(work.keywords.clone()));
    }
    json!({
        "jid": work.jid,
        "fun": work.function,
        "arg": arguments,
        "pid": work.pid,
        "tgt": work.target.expression,
        "tgt_type": kind,
        "user": work.user,
    })
}

fn jid(args: &Args) -> Result<JobId, Failure> {
    args.required_text("jid")?.parse().map_err(|error| ArgumentError(format!("{error}")).into())
}

async fn running(desk: &Desk) -> Outcomes {
    let works = desk.ask(Ask::Running).await?;
    Ok(Value::Array(works.iter().map(describe).collect()).into())
}

async fn find_job(desk: &Desk, args: &Args) -> Outcomes {
    let wanted = jid(args)?;
    let works = desk.ask(Ask::Running).await?;
    let found = works.iter().find(|work| work.jid == wanted);
    Ok(found.map_or_else(|| json!({}), describe).into())
}

async fn kill_job(desk: &Desk, args: &Args) -> Outcomes {
    let wanted = jid(args)?;
    match desk.ask(|reply| Ask::Kill(wanted, reply)).await? {
        Ok(Some(pid)) => Ok(json!(format!("Signal 15 sent to job {wanted} at pid {pid}")).into()),
        Ok(None) => Ok(json!(format!("Job {wanted} does not run here")).into()),
        Err(failed) => Err(Failure::Failed(failed)),
    }
}

async fn refresh_grains(desk: &Desk) -> Outcomes {
    let facts = desk.executor.facts();
    desk.ask(|reply| Ask::NewFacts(facts, reply)).await?.map_err(Failure::Failed)?;
    Ok(json!(true).into())
}

async fn set_grain(desk: &Desk, args: &Args, set: bool) -> Outcomes {
    let key = args.required_text("key")?;
    if key.is_empty() || matches!(key.as_str(), "id" | "saltern_version") {
        return Err(ArgumentError(format!("the grain {key:?} cannot be set")).into());
    }
    let value = if set { Some(args.get("val").cloned().unwrap_or_default()) } else { None };
    desk.ask(|reply| Ask::SetGrain(key.clone(), value.clone(), reply)).await?.map_err(Failure::Failed)?;
    let mut shown = Map::new();
    shown.insert(key, value.unwrap_or_default());
    Ok(Value::Object(shown).into())
}
