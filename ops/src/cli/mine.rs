//! `saltern mine get`.

use super::target::{TargetOptions, kind_name};
use super::{CliError, EXIT_NO_MATCH, Session};
use crate::client::query;
use crate::output::table::Table;
use crate::output::{Page, document, nested};
use saltern_wire::mine::MineEntry;
use saltern_wire::{Map, Value};

/// Verbs over the mine.
#[derive(Debug, clap::Subcommand)]
pub enum MineCommand {
    /// Read the newest value that minions published for a function
    #[command(after_help = "Example:\n  saltern mine get -G roles:web network.ip_addrs -o json")]
    Get {
        /// Whose: a glob over minion ids, or as -E -L -G -C say
        #[arg(value_name = "TARGET")]
        expression: String,
        /// The mine function or alias
        function: String,
        #[command(flatten)]
        target: TargetOptions,
    },
}

/// Carries out a verb.
pub async fn run(command: MineCommand, session: &mut Session) -> Result<u8, CliError> {
    let MineCommand::Get { expression, function, target } = command;
    let target = target.target(expression)?;
    let kind = kind_name(target.kind);
    let parameters = query(&[("kind", &kind), ("target", &target.expression), ("function", &function)]);
    let answer = session.client.get("/v1/mine", &parameters).await?;
    let entries: Vec<MineEntry> = session.fresh(answer)?;
    let found = !entries.is_empty();
    session.screen.show(&Entries(entries))?;
    if !found {
        session.screen.note(&format!("No minion that {target} matches has published {function}."))?;
    }
    Ok(if found { 0 } else { EXIT_NO_MATCH })
}

/// Values by minion.
struct Entries(Vec<MineEntry>);

impl Page for Entries {
    /// `{minion: value}`, as `mine.get` returns it on a minion.
    fn document(&self) -> Value {
        self.0.iter().map(|entry| (entry.minion.to_string(), entry.value.clone())).collect::<Map>().into()
    }

    fn lines(&self) -> Vec<Value> {
        self.0.iter().map(document).collect()
    }

    fn nested(&self) -> String {
        nested::text(&self.document(), nested::SALT)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "FUNCTION", "VALUE"]);
        for entry in &self.0 {
            let value = entry.value.as_str().map_or_else(|| entry.value.to_string(), str::to_owned);
            table.row([entry.minion.to_string(), entry.function.clone(), value]);
        }
        table
    }
}
