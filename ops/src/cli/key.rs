//! `saltern key list|show|accept|reject|delete`.

use super::{CliError, EXIT_NO_MATCH, Session};
use crate::output::style::{self, BAD, DENIED, KEY, REJECTED, TEXT};
use crate::output::table::Table;
use crate::output::{Page, document, nested};
use saltern_wire::Value;
use saltern_wire::api::{FailureCode, KeyChanges, KeyDecision, KeySelection, KeyView};
use saltern_wire::crypto::Fingerprint;
use saltern_wire::key::KeyState;
use saltern_wire::target::glob::Glob;
use serde_json::json;

/// Verbs over keys.
#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// List keys by what was decided about them
    #[command(after_help = "Example:\n  saltern key list --state pending -o json")]
    List {
        /// Only keys in this state
        #[arg(long, value_enum, value_name = "STATE")]
        state: Option<State>,
    },
    /// Show keys with their fingerprints, to compare with `saltern-minion fingerprint`
    #[command(after_help = "Example:\n  saltern key show 'web-*'")]
    Show(Selection),
    /// Let minions work
    #[command(after_help = "Examples:\n  saltern key accept web-a\n  saltern key accept --fingerprint 4f1c09aa")]
    Accept {
        #[command(flatten)]
        selection: Selection,
        /// Also take rejected and denied keys
        #[arg(long)]
        include_decided: bool,
    },
    /// Refuse keys and remember it; ends the sessions of accepted ones
    #[command(after_help = "Example:\n  saltern key reject 'old-*' --include-decided")]
    Reject {
        #[command(flatten)]
        selection: Selection,
        /// Also take accepted and denied keys
        #[arg(long)]
        include_decided: bool,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
    /// Forget keys: the minions may enrol again, and wait
    #[command(after_help = "Example:\n  saltern key delete web-a")]
    Delete {
        #[command(flatten)]
        selection: Selection,
        /// Do not ask
        #[arg(short = 'y', long)]
        yes: bool,
    },
}

/// A key's state, in the API's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum State {
    /// May work
    Accepted,
    /// A second key for an id
    Denied,
    /// Waits for a decision
    #[value(alias = "unaccepted")]
    Pending,
    /// Refused and remembered
    Rejected,
}

impl State {
    fn is(self, state: KeyState) -> bool {
        matches!(
            (self, state),
            (Self::Accepted, KeyState::Accepted)
                | (Self::Denied, KeyState::Denied)
                | (Self::Pending, KeyState::Pending)
                | (Self::Rejected, KeyState::Rejected)
        )
    }
}

/// Which keys; exactly one way of saying so.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Selection {
    /// Ids that match this glob
    glob: Option<String>,
    /// Every key
    #[arg(long)]
    all: bool,
    /// The key with this fingerprint, or the only one that begins with these (at least 8) digits
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
}

impl Selection {
    fn select(&self) -> KeySelection {
        match (&self.glob, &self.fingerprint) {
            (Some(glob), _) => KeySelection::Glob(glob.clone()),
            (None, Some(digits)) => KeySelection::Fingerprint(digits.replace(':', "").to_lowercase()),
            (None, None) => KeySelection::All,
        }
    }

    /// Whether every key is meant, in whatever words.
    fn is_everything(&self) -> bool {
        match self.select() {
            KeySelection::All => true,
            KeySelection::Glob(glob) => !glob.is_empty() && glob.bytes().all(|byte| byte == b'*'),
            KeySelection::Fingerprint(_) => false,
        }
    }

    fn shown(&self) -> String {
        match self.select() {
            KeySelection::All => "--all".into(),
            KeySelection::Glob(glob) => format!("key glob {glob:?}"),
            KeySelection::Fingerprint(digits) => format!("fingerprint {digits}"),
        }
    }

    fn matches(&self, key: &KeyView) -> bool {
        match self.select() {
            KeySelection::All => true,
            KeySelection::Glob(glob) => Glob::new(&glob).matches(key.minion.as_str()),
            KeySelection::Fingerprint(digits) => key.fingerprint.to_string().starts_with(&digits),
        }
    }
}

/// A decision over keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Accept,
    Reject,
    Delete,
}

impl Decision {
    fn path(self) -> &'static str {
        match self {
            Self::Accept => "/v1/keys/accept",
            Self::Reject => "/v1/keys/reject",
            Self::Delete => "/v1/keys/delete",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Accept => "accepted",
            Self::Reject => "rejected",
            Self::Delete => "deleted",
        }
    }

    /// Which keys it takes.
    fn takes(self, include_decided: bool) -> &'static str {
        match (self, include_decided) {
            (Self::Accept | Self::Reject, false) => "unaccepted keys; --include-decided takes decided ones too",
            (Self::Accept, true) => "unaccepted, rejected or denied keys",
            (Self::Reject, true) => "unaccepted, accepted or denied keys",
            (Self::Delete, _) => "keys",
        }
    }
}

/// Carries out a verb.
pub async fn run(command: KeyCommand, session: &mut Session) -> Result<u8, CliError> {
    match command {
        KeyCommand::List { state } => {
            let mut keys = all(session).await?;
            keys.retain(|key| state.is_none_or(|state| state.is(key.state)));
            session.screen.show(&KeyList { keys, only: state })?;
            Ok(0)
        }
        KeyCommand::Show(selection) => {
            let mut keys = all(session).await?;
            keys.retain(|key| selection.matches(key));
            let found = !keys.is_empty();
            session.screen.show(&KeyDetails(keys))?;
            if !found {
                session.screen.error(&format!("The {} does not match any keys.", selection.shown()))?;
            }
            Ok(if found { 0 } else { EXIT_NO_MATCH })
        }
        KeyCommand::Accept { selection, include_decided } => {
            decide(Decision::Accept, &selection, include_decided, session).await
        }
        KeyCommand::Reject { selection, include_decided, yes } => {
            confirm(Decision::Reject, &selection, yes, session)?;
            decide(Decision::Reject, &selection, include_decided, session).await
        }
        KeyCommand::Delete { selection, yes } => {
            confirm(Decision::Delete, &selection, yes, session)?;
            decide(Decision::Delete, &selection, true, session).await
        }
    }
}

async fn all(session: &mut Session) -> Result<Vec<KeyView>, CliError> {
    let answer = session.client.get("/v1/keys", "").await?;
    session.fresh(answer)
}

fn confirm(decision: Decision, selection: &Selection, yes: bool, session: &mut Session) -> Result<(), CliError> {
    if yes || !selection.is_everything() {
        return Ok(());
    }
    session.confirm(&format!("Every key would be {}.", decision.done()))
}

async fn decide(
    decision: Decision,
    selection: &Selection,
    include_decided: bool,
    session: &mut Session,
) -> Result<u8, CliError> {
    // Delete takes every state by itself; the field is about the other two.
    let include = include_decided && decision != Decision::Delete;
    let body = KeyDecision { select: selection.select(), include_decided: include };
    let answer = match session.client.post(decision.path(), &body).await.map_err(CliError::from) {
        Err(error) if error.refusal() == Some(FailureCode::NotFound) => {
            session.screen.error(&error.to_string())?;
            return Ok(EXIT_NO_MATCH);
        }
        outcome => outcome?,
    };
    let changes: KeyChanges = session.fresh(answer)?;
    let changed = !changes.changed.is_empty();
    session.screen.show(&Decided { decision, keys: changes.changed })?;
    if changed {
        return Ok(0);
    }
    let takes = decision.takes(include_decided);
    session.screen.note(&format!("The {} does not match any {takes}.", selection.shown()))?;
    // "All of none" is done already; a name that is not there is a mistake.
    Ok(if selection.is_everything() { 0 } else { EXIT_NO_MATCH })
}

/// Salt's `salt-key -L`.
struct KeyList {
    keys: Vec<KeyView>,
    only: Option<State>,
}

/// The sections of a list, in Salt's order.
const SECTIONS: [(State, &str, anstyle::Style); 4] = [
    (State::Accepted, "Accepted Keys:", TEXT),
    (State::Denied, "Denied Keys:", DENIED),
    (State::Pending, "Unaccepted Keys:", BAD),
    (State::Rejected, "Rejected Keys:", REJECTED),
];

impl Page for KeyList {
    fn document(&self) -> Value {
        document(&self.keys)
    }

    fn lines(&self) -> Vec<Value> {
        self.keys.iter().map(document).collect()
    }

    fn nested(&self) -> String {
        let mut out = String::new();
        for (state, heading, color) in SECTIONS {
            if self.only.is_some_and(|only| only != state) {
                continue;
            }
            out += &format!("{}\n", style::paint(color, heading));
            for key in self.keys.iter().filter(|key| state.is(key.state)) {
                out += &format!("{}\n", style::paint(color, key.minion.as_str()));
            }
        }
        out
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "STATE", "FINGERPRINT", "SUBMITTED", "DECIDED", "BY"]);
        for key in &self.keys {
            table.row([
                key.minion.to_string(),
                state_word(key.state).into(),
                short(key.fingerprint),
                key.submitted.to_string(),
                key.decided.map(|time| time.to_string()).unwrap_or_default(),
                key.decided_by.clone().unwrap_or_default(),
            ]);
        }
        table
    }
}

/// The beginning of a fingerprint: enough to choose a key by.
fn short(fingerprint: Fingerprint) -> String {
    fingerprint.to_string().chars().take(16).collect()
}

fn state_word(state: KeyState) -> &'static str {
    match state {
        KeyState::Accepted => "accepted",
        KeyState::Denied => "denied",
        KeyState::Pending => "pending",
        KeyState::Rejected => "rejected",
    }
}

/// Keys with everything known about them.
struct KeyDetails(Vec<KeyView>);

impl Page for KeyDetails {
    fn document(&self) -> Value {
        document(&self.0)
    }

    fn lines(&self) -> Vec<Value> {
        self.0.iter().map(document).collect()
    }

    fn nested(&self) -> String {
        let entry = |key: &KeyView| {
            let mut details = document(key);
            if let Value::Object(map) = &mut details {
                map.shift_remove("minion");
                // Documents carry microseconds; people read dates.
                map.insert("submitted".into(), key.submitted.to_string().into());
                if let Some(decided) = key.decided {
                    map.insert("decided".into(), decided.to_string().into());
                }
            }
            nested::entry(key.minion.as_str(), &details, nested::ORDERED)
        };
        self.0.iter().map(entry).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "STATE", "FINGERPRINT"]);
        for key in &self.0 {
            table.row([key.minion.to_string(), state_word(key.state).into(), key.fingerprint.to_string()]);
        }
        table
    }
}

/// What a decision changed.
struct Decided {
    decision: Decision,
    keys: Vec<KeyView>,
}

impl Page for Decided {
    fn document(&self) -> Value {
        json!({ "changed": document(&self.keys) })
    }

    fn lines(&self) -> Vec<Value> {
        self.keys.iter().map(document).collect()
    }

    fn nested(&self) -> String {
        let done = self.decision.done();
        let line = |key: &KeyView| format!("Key for minion {} {done}.\n", style::paint(KEY, key.minion.as_str()));
        self.keys.iter().map(line).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["MINION", "DECISION", "FINGERPRINT"]);
        for key in &self.keys {
            table.row([key.minion.to_string(), self.decision.done().into(), key.fingerprint.to_string()]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, text};
    use saltern_wire::{LogicalTime, MinionId};

    fn key(minion: &str, state: KeyState) -> KeyView {
        KeyView {
            minion: MinionId::new(minion).expect("an id"),
            state,
            fingerprint: Fingerprint([0xab; 32]),
            ordinal: None,
            submitted: LogicalTime::from_unix_micros(1_795_392_390_290_128),
            decided: None,
            decided_by: None,
        }
    }

    #[test]
    fn a_list_reads_as_salt_keys() {
        let keys = vec![key("web-a", KeyState::Accepted), key("web-b", KeyState::Accepted)];
        let page = KeyList { keys, only: None };
        let expect = "Accepted Keys:\nweb-a\nweb-b\nDenied Keys:\nUnaccepted Keys:\nRejected Keys:\n";
        assert_eq!(style::plain(&text(&page, Format::Nested)), expect);

        let keys = vec![key("d", KeyState::Denied), key("p", KeyState::Pending), key("r", KeyState::Rejected)];
        let page = KeyList { keys, only: None };
        let expect = "\u{1b}[32mAccepted Keys:\u{1b}[0m\n\u{1b}[35mDenied Keys:\u{1b}[0m\n\u{1b}[35md\u{1b}[0m\n\
                      \u{1b}[31mUnaccepted Keys:\u{1b}[0m\n\u{1b}[31mp\u{1b}[0m\n\
                      \u{1b}[34mRejected Keys:\u{1b}[0m\n\u{1b}[34mr\u{1b}[0m\n";
        assert_eq!(text(&page, Format::Nested), expect);
        assert_eq!(text(&page, Format::Ndjson).lines().count(), 3);
    }

    #[test]
    fn every_key_is_every_key_in_whatever_words() {
        let selection = |glob: Option<&str>, all| Selection { glob: glob.map(Into::into), all, fingerprint: None };
        assert!(selection(None, true).is_everything());
        assert!(selection(Some("*"), false).is_everything());
        assert!(selection(Some("**"), false).is_everything());
        assert!(!selection(Some("web-*"), false).is_everything());
        let one = Selection { glob: None, all: false, fingerprint: Some("ABABABAB".into()) };
        assert!(!one.is_everything() && one.matches(&key("x", KeyState::Pending)));
    }
}
