//! `saltern cluster rotate-secrets`: a new state secret, without a pause.

use super::{CliError, Session};
use crate::output::table::Table;
use crate::output::{Page, document};
use saltern_wire::Value;
use saltern_wire::api::member::SecretsView;

/// Asks for a new state secret, or, with `show`, where the one in force stands.
pub(super) async fn run(show: bool, yes: bool, session: &mut Session) -> Result<u8, CliError> {
    if show {
        let answer = session.client.get("/v1/cluster/secrets", "").await?;
        let view: SecretsView = session.fresh(answer)?;
        session.screen.show(&Secrets(view))?;
        return Ok(0);
    }
    if !yes {
        let question = "Every master gets a new state secret, which seals the CA's key from then on. Join tokens that were \
                        not used yet end, and `saltern cluster export-keys` has to be run again for the safe.";
        session.confirm(question)?;
    }
    let answer = session.client.post("/v1/cluster/rotate-secrets", &serde_json::json!({})).await?;
    let view: SecretsView = session.fresh(answer)?;
    let under_way = view.wanted > view.epoch;
    session.screen.show(&Secrets(view))?;
    Ok(if under_way { 75 } else { 0 })
}

struct Secrets(SecretsView);

impl Page for Secrets {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn nested(&self) -> String {
        let SecretsView { epoch, wanted, holders, missing } = &self.0;
        let mut out = format!("state secret {epoch} is in force\n");
        if wanted > epoch {
            out += &format!("state secret {wanted} is wanted: the leader is at it, look again in a moment\n");
        }
        out += &format!("held by: {}\n", holders.join(", "));
        if !missing.is_empty() {
            out += &format!("not known to be held by: {} (each asks for it once it is reached)\n", missing.join(", "));
        }
        out
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MASTER", "HOLDS", "IN FORCE", "WANTED"]);
        let rows = self.0.holders.iter().map(|name| (name, "yes")).chain(self.0.missing.iter().map(|name| (name, "?")));
        for (name, holds) in rows {
            table.row([name.clone(), holds.into(), self.0.epoch.to_string(), self.0.wanted.to_string()]);
        }
        table
    }
}
