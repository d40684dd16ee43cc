//! `saltern cluster transfer-leader [MASTER]`: who leads, on purpose.

use super::{CliError, Session};
use crate::output::table::Table;
use crate::output::{Page, document};
use saltern_wire::Value;
use saltern_wire::api::member::{TransferAnswer, TransferRequest};

/// Asks the leader to hand over to `to`, or to whom it chooses.
pub(super) async fn run(to: Option<String>, yes: bool, session: &mut Session) -> Result<u8, CliError> {
    let mut request = TransferRequest { to, dry_run: true };
    if !yes {
        let planned: TransferAnswer = ask(&request, session).await?;
        if planned.from != planned.to {
            let question =
                format!("{} leads and will hand over to {}; writes wait for a moment.", planned.from, planned.to);
            session.confirm(&question)?;
        }
    }
    request.dry_run = false;
    let answer = ask(&request, session).await?;
    session.screen.show(&Transfer(answer))?;
    Ok(0)
}

async fn ask(request: &TransferRequest, session: &mut Session) -> Result<TransferAnswer, CliError> {
    let answer = session.client.post("/v1/cluster/transfer-leader", request).await?;
    session.fresh(answer)
}

struct Transfer(TransferAnswer);

impl Page for Transfer {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn nested(&self) -> String {
        let TransferAnswer { from, to, changed, took_ms } = &self.0;
        if *changed {
            format!("{to} leads in the place of {from}; it took {took_ms} ms\n")
        } else {
            format!("{to} leads already: nothing to do\n")
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["FROM", "TO", "CHANGED", "TOOK"]);
        let changed = if self.0.changed { "yes" } else { "no" };
        table.row([self.0.from.clone(), self.0.to.clone(), changed.into(), format!("{} ms", self.0.took_ms)]);
        table
    }
}
