//! `saltern minion list|show`.

use super::{CliError, Session};
use crate::client::segment;
use crate::output::style::{self, BAD, TEXT, WARN};
use crate::output::table::Table;
use crate::output::{Page, document, nested};
use saltern_wire::api::{MinionList, MinionView, Presence};
use saltern_wire::{Map, MinionId, Value};

/// Verbs over accepted minions.
#[derive(Debug, clap::Subcommand)]
pub enum MinionCommand {
    /// List accepted minions by presence
    #[command(after_help = "Example:\n  saltern minion list --state disconnected -o table")]
    List {
        /// Only minions in this state
        #[arg(long, value_enum, value_name = "STATE")]
        state: Option<State>,
    },
    /// Show one minion with its grains
    #[command(after_help = "Example:\n  saltern minion show web-a")]
    Show {
        /// Which
        id: MinionId,
    },
}

/// Presence, in the API's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum State {
    /// Has a session
    Connected,
    /// Has none
    Disconnected,
    /// Some master does not answer
    Unknown,
}

impl State {
    fn of(presence: Presence) -> Self {
        match presence {
            Presence::Connected => Self::Connected,
            Presence::Disconnected => Self::Disconnected,
            Presence::Unknown => Self::Unknown,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Unknown => "unknown",
        }
    }

    fn style(self) -> anstyle::Style {
        match self {
            Self::Connected => TEXT,
            Self::Disconnected => BAD,
            Self::Unknown => WARN,
        }
    }
}

/// Carries out a verb.
pub async fn run(command: MinionCommand, session: &mut Session) -> Result<u8, CliError> {
    match command {
        MinionCommand::List { state } => {
            let answer = session.client.get("/v1/minions", "").await?;
            let list: MinionList = session.fresh(answer)?;
            let coverage = coverage(&list);
            let mut shown = list;
            shown.minions.retain(|minion| state.is_none_or(|state| state == State::of(minion.presence)));
            session.screen.show(&Listed { list: shown, coverage })?;
        }
        MinionCommand::Show { id } => {
            let answer = session.client.get(&format!("/v1/minions/{}", segment(id.as_str())), "").await?;
            let minion: MinionView = session.fresh(answer)?;
            session.screen.show(&Shown(minion))?;
        }
    }
    Ok(0)
}

/// `connected 9,812 of 10,000 (5/5 masters)`.
fn coverage(list: &MinionList) -> String {
    let connected = list.minions.iter().filter(|minion| minion.presence == Presence::Connected).count();
    let (connected, all) = (thousands(connected), thousands(list.minions.len()));
    format!("connected {connected} of {all} ({}/{} masters)", list.masters_heard, list.masters_all)
}

/// A number with its digits in groups of three.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Minions by presence.
struct Listed {
    list: MinionList,
    coverage: String,
}

impl Page for Listed {
    fn document(&self) -> Value {
        document(&self.list)
    }

    fn lines(&self) -> Vec<Value> {
        self.list.minions.iter().map(document).collect()
    }

    fn nested(&self) -> String {
        let mut out = String::new();
        for state in [State::Connected, State::Disconnected, State::Unknown] {
            out += &format!("{}:\n", style::paint(state.style(), state.word()));
            for minion in self.list.minions.iter().filter(|minion| State::of(minion.presence) == state) {
                out += &format!("    - {}\n", style::paint(state.style(), minion.id.as_str()));
            }
        }
        out + &self.coverage + "\n"
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "PRESENCE", "MASTER", "SINCE", "VERSION"]);
        for minion in &self.list.minions {
            table.row([
                minion.id.to_string(),
                State::of(minion.presence).word().into(),
                minion.master.clone().unwrap_or_default(),
                minion.since.map(|time| time.to_string()).unwrap_or_default(),
                minion.version.clone().unwrap_or_default(),
            ]);
        }
        table.note(self.coverage.clone());
        table
    }
}

/// One minion.
struct Shown(MinionView);

impl Shown {
    /// What people are shown: no id, which is the heading, and dates instead of microseconds.
    fn facts(&self) -> Map {
        let Value::Object(mut map) = document(&self.0) else { return Map::new() };
        map.shift_remove("id");
        if let Some(since) = self.0.since {
            map.insert("since".into(), since.to_string().into());
        }
        map
    }
}

impl Page for Shown {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn nested(&self) -> String {
        nested::entry(self.0.id.as_str(), &Value::Object(self.facts()), nested::ORDERED)
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["NAME", "VALUE"]);
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        for (name, value) in self.facts().iter().filter(|(name, _)| *name != "grains") {
            table.row([name.clone(), text(value)]);
        }
        for (name, value) in self.0.grains.iter().flatten() {
            table.row([format!("grains.{name}"), text(value)]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, text};
    use saltern_wire::Ordinal;

    fn minion(id: &str, presence: Presence) -> MinionView {
        MinionView {
            id: MinionId::new(id).expect("an id"),
            ordinal: Ordinal(1),
            presence,
            master: None,
            since: None,
            version: None,
            grains: None,
        }
    }

    #[test]
    fn a_list_says_how_much_it_covers() {
        let minions = vec![minion("web-a", Presence::Connected), minion("web-b", Presence::Disconnected)];
        let list = MinionList { minions, masters_heard: 2, masters_all: 3 };
        let coverage = coverage(&list);
        let page = Listed { list, coverage };
        let expect = "connected:\n    - web-a\ndisconnected:\n    - web-b\nunknown:\nconnected 1 of 2 (2/3 masters)\n";
        assert_eq!(style::plain(&text(&page, Format::Nested)), expect);
        assert_eq!([0, 999, 1_000, 9_812, 1_234_567].map(thousands), ["0", "999", "1,000", "9,812", "1,234,567"]);
    }
}
