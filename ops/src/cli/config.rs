//! `saltern config get|set`: settings that are part of the truth.

use super::{CliError, EXIT_USAGE, Session, arguments};
use crate::client::segment;
use crate::output::table::Table;
use crate::output::{Page, nested};
use saltern_wire::{Map, Value};

/// Verbs over settings.
#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
    /// Show all settings, or one
    #[command(after_help = "Example:\n  saltern config get keep_jobs_seconds")]
    Get {
        /// Which
        name: Option<String>,
    },
    /// Change a setting on every master
    #[command(after_help = "Example:\n  saltern config set job_ttl_ms 120000")]
    Set {
        /// Which
        name: String,
        /// To what: a number, true or false
        value: String,
    },
}

/// Carries out a verb.
pub async fn run(command: ConfigCommand, session: &mut Session) -> Result<u8, CliError> {
    match command {
        ConfigCommand::Get { name } => {
            let answer = session.client.get("/v1/config", "").await?;
            let settings: Map = session.fresh(answer)?;
            match name {
                None => session.screen.show(&Shown(settings))?,
                Some(name) => match settings.get(&name) {
                    Some(value) => session.screen.show(&Shown(Map::from_iter([(name, value.clone())])))?,
                    None => {
                        let known = settings.keys().cloned().collect::<Vec<_>>().join(", ");
                        session.screen.error(&format!("there is no setting {name:?}; there are {known}"))?;
                        return Ok(EXIT_USAGE);
                    }
                },
            }
        }
        ConfigCommand::Set { name, value } => {
            let path = format!("/v1/config/{}", segment(&name));
            let answer = session.client.put(&path, &arguments::value(&value)).await?;
            let mut settings: Map = session.fresh(answer)?;
            settings.retain(|known, _| *known == name);
            session.screen.show(&Shown(settings))?;
        }
    }
    Ok(0)
}

/// Settings by name, as the masters know them: they may have some that this build does not./// Settings by name: the masters', which may have some that this build does not know.
struct Shown(Map);

impl Page for Shown {
    fn document(&self) -> Value {
        Value::Object(self.0.clone())
    }

    fn nested(&self) -> String {
        nested::text(&self.document(), nested::SALT)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["NAME", "VALUE"]);
        for (name, value) in &self.0 {
            table.row([name.clone(), value.to_string()]);
        }
        table
    }
}
