//! `saltern cluster join-token`: the one secret that a new master needs.

use super::super::duration::milliseconds;
use super::{CliError, Session};
use crate::output::table::Table;
use crate::output::{Format, Page, document};
use saltern_wire::Value;
use saltern_wire::api::{JoinTokenRequest, JoinTokenView};
use std::time::Duration;

/// Asks for a token that is good for `ttl` and for `uses` masters.
pub(super) async fn run(ttl: Duration, uses: u32, session: &mut Session) -> Result<u8, CliError> {
    let body = JoinTokenRequest { ttl_ms: milliseconds(ttl), uses };
    let answer = session.client.post("/v1/cluster/join-token", &body).await?;
    let token: JoinTokenView = session.fresh(answer)?;
    let expires = token.expires;
    session.screen.show(&Token(token))?;
    if session.screen.format() == Format::Nested {
        session.screen.note(&format!(
            "On the new machine: saltern-master join TOKEN. Good until {expires} for {uses} master{}, shown once.",
            if uses == 1 { "" } else { "s" }
        ))?;
    }
    Ok(0)
}

/// A join token: on stdout alone, so that it can be piped.
struct Token(JoinTokenView);

impl Page for Token {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn nested(&self) -> String {
        format!("{}\n", self.0.token)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["TOKEN", "EXPIRES"]);
        table.row([self.0.token.clone(), self.0.expires.to_string()]);
        table
    }
}
