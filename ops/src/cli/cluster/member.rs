//! `saltern cluster promote|demote|remove|drain|undrain`: the plan first, then the question, then the change.
//!
//! A master works the plan out and refuses by it; this shows it. Between the plan and the change somebody else may change the
//! masters: then nothing is done, and the message says so. Every verb can be repeated: what is so already is left alone.

use super::{CliError, Session};
use crate::output::table::Table;
use crate::output::{Page, document};
use saltern_wire::Value;
use saltern_wire::api::FailureCode;
use saltern_wire::api::member::{MemberAnswer, MemberChange, MemberPlan, MemberRequest};
use std::fmt::Write as _;
use std::time::Duration;

/// Where changes are asked for.
const PATH: &str = "/v1/cluster/members";

/// Pause between two looks at a change that is under way.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks before it is left to itself: ten minutes, in which a learner catches up and the largest master drains.
const LOOKS_MAX: u32 = 1_200;

/// Times that a change is asked for while its plan stays the same.
const SAME_PLANS_MAX: u32 = 4;

/// Whom, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct MemberArguments {
    /// The master's name, or its number
    #[arg(value_name = "MASTER")]
    pub(super) master: String,
    /// Do not ask
    #[arg(short = 'y', long)]
    pub(super) yes: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not wait until it is done
    #[arg(long)]
    pub(super) no_wait: bool,
}

/// Shows the plan, asks, makes the change and waits until the group has followed.
pub(super) async fn run(
    change: MemberChange,
    arguments: &MemberArguments,
    session: &mut Session,
) -> Result<u8, CliError> {
    let mut request = MemberRequest { change, master: arguments.master.clone(), directory: None, dry_run: true };
    let planned = ask(&request, session).await?;
    if arguments.dry_run {
        let refused = planned.plan.refused.is_some();
        session.screen.show(&Change { answer: planned, dry_run: true })?;
        return Ok(if refused { FailureCode::Conflict.exit_code() } else { 0 });
    }
    let plan = &planned.plan;
    if plan.refused.is_none() && plan.steps.is_empty() && planned.complete {
        session.screen.show(&Change { answer: planned, dry_run: false })?;
        return Ok(0);
    }
    if plan.refused.is_none() && !arguments.yes {
        session.screen.note(text_of(plan).trim_end())?;
        session.confirm(&format!("{change} {}:", plan.name))?;
    }
    // One that is refused is asked for all the same: the master's own words, with their exit code, are the answer.
    let mut answer = make(&mut request, plan, session).await?;
    let first = answer.plan.clone();
    let (mut told, mut looks) = (None, 0);
    while !answer.complete && !arguments.no_wait && looks < LOOKS_MAX {
        looks += 1;
        if answer.waits_for != told {
            told.clone_from(&answer.waits_for);
            session.screen.note(&format!("under way: {}", told.as_deref().unwrap_or("the group has to follow")))?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        request.dry_run = true;
        answer = ask(&request, session).await?;
    }
    answer.plan = first;
    let code = if answer.complete { 0 } else { 75 };
    session.screen.show(&Change { answer, dry_run: false })?;
    Ok(code)
}

/// Makes the change that `plan` describes. If the masters changed meanwhile and the plan is still the same to the letter (one that
/// joined was activated, perhaps), what the operator confirmed is asked for again; a plan that is another one is not.
async fn make(request: &mut MemberRequest, plan: &MemberPlan, session: &mut Session) -> Result<MemberAnswer, CliError> {
    let mut directory = plan.directory;
    for left in (0..SAME_PLANS_MAX).rev() {
        (request.directory, request.dry_run) = (Some(directory), false);
        match ask(request, session).await {
            Err(error) if left > 0 && error.refusal() == Some(FailureCode::Conflict) => {
                request.dry_run = true;
                let again = ask(request, session).await?.plan;
                directory = again.directory;
                if again.refused.is_some() || again != (MemberPlan { directory, ..plan.clone() }) {
                    return Err(error);
                }
            }
            outcome => return outcome,
        }
    }
    Err(CliError::Usage("the masters keep changing: try again".into()))
}

async fn ask(request: &MemberRequest, session: &mut Session) -> Result<MemberAnswer, CliError> {
    let answer = session.client.post(PATH, request).await?;
    session.fresh(answer)
}

/// The plan as people read it.
fn text_of(plan: &MemberPlan) -> String {
    let mut out = format!("{} {}:\n", plan.change, plan.name);
    if let Some(cause) = &plan.refused {
        let _ = writeln!(out, "  refused: {cause}");
    }
    for (number, step) in plan.steps.iter().enumerate() {
        let _ = writeln!(out, "  {}. {step}", number + 1);
    }
    if plan.refused.is_none() && !plan.steps.is_empty() && plan.voters.0 != plan.voters.1 {
        let (before, after) = (&plan.voters.0, &plan.voters.1);
        let (bears, then) = plan.tolerance;
        let _ = writeln!(
            out,
            "  voters {} ({}) → {} ({}); failure tolerance {bears} → {then}",
            before.len(),
            before.join(", "),
            after.len(),
            after.join(", ")
        );
    }
    for warning in &plan.warnings {
        let _ = writeln!(out, "  note: {warning}");
    }
    out
}

/// A change, planned or made.
struct Change {
    answer: MemberAnswer,
    dry_run: bool,
}

impl Change {
    fn outcome(&self) -> String {
        let answer = &self.answer;
        if self.dry_run {
            return "nothing was changed (--dry-run)".into();
        }
        match (&answer.waits_for, answer.complete, answer.plan.steps.is_empty()) {
            (_, true, true) => "nothing to do: it is so already".into(),
            (_, true, false) => "done".into(),
            (Some(what), false, _) => format!("under way: {what}"),
            (None, false, _) => "under way".into(),
        }
    }
}

impl Page for Change {
    fn document(&self) -> Value {
        let mut document = document(&self.answer);
        if let Value::Object(map) = &mut document {
            map.insert("dry_run".into(), self.dry_run.into());
        }
        document
    }

    fn nested(&self) -> String {
        format!("{}{}\n", text_of(&self.answer.plan), self.outcome())
    }

    fn table(&self) -> Table {
        let plan = &self.answer.plan;
        let mut table = Table::new(&["CHANGE", "MASTER", "STEP"]);
        for step in &plan.steps {
            table.row([plan.change.to_string(), plan.name.clone(), step.clone()]);
        }
        table.row([plan.change.to_string(), plan.name.clone(), self.outcome()]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::style::plain;
    use crate::output::{Format, text};
    use saltern_wire::MasterId;

    fn plan() -> MemberPlan {
        MemberPlan {
            change: MemberChange::Demote,
            master: MasterId(1),
            name: "m1".into(),
            directory: (1, 7),
            steps: vec!["m1 leads now: it hands leadership over first".into(), "m1 votes no more".into()],
            warnings: vec!["the cluster bears the loss of 0 more voters instead of 1".into()],
            refused: None,
            voters: (vec!["m1".into(), "m2".into(), "m3".into()], vec!["m2".into(), "m3".into()]),
            tolerance: (1, 0),
        }
    }

    #[test]
    fn the_plan_says_what_will_be_done_and_what_the_cluster_bears_then() {
        let answer = MemberAnswer { plan: plan(), complete: false, waits_for: Some("m1 still leads".into()) };
        let expect = "\
demote m1:
  1. m1 leads now: it hands leadership over first
  2. m1 votes no more
  voters 3 (m1, m2, m3) → 2 (m2, m3); failure tolerance 1 → 0
  note: the cluster bears the loss of 0 more voters instead of 1
under way: m1 still leads
";
        assert_eq!(plain(&text(&Change { answer, dry_run: false }, Format::Nested)), expect);
    }

    #[test]
    fn a_refusal_says_why_and_nothing_else() {
        let refused = MemberPlan { steps: Vec::new(), warnings: Vec::new(), refused: Some("no".into()), ..plan() };
        let answer = MemberAnswer { plan: refused, complete: false, waits_for: None };
        let shown = plain(&text(&Change { answer, dry_run: true }, Format::Nested));
        assert_eq!(shown, "demote m1:\n  refused: no\nnothing was changed (--dry-run)\n");
    }
}
