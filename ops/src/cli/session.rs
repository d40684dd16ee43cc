//! One command's way to the masters and to the terminal.

use super::CliError;
use crate::client::Client;
use crate::output::Screen;
use saltern_wire::api::Answer;
use serde_json::json;
use std::io::{BufRead, IsTerminal};

/// What a verb works with.
pub struct Session {
    /// The masters.
    pub client: Client,
    /// The terminal.
    pub screen: Screen,
    warned: bool,
    shows_as_of: bool,
}

impl Session {
    /// From its two halves.
    pub fn new(client: Client, screen: Screen) -> Self {
        Self { client, screen, warned: false, shows_as_of: false }
    }

    /// Shows from now on of when each answer is.
    pub fn show_as_of(&mut self) {
        self.shows_as_of = true;
    }

    /// Gives the screen back for the last words.
    pub fn into_screen(self) -> Screen {
        self.screen
    }

    /// The value of an answer, with a warning (one a command) if it may be old.
    pub fn fresh<T>(&mut self, answer: Answer<T>) -> Result<T, CliError> {
        if let Some(stale_ms) = answer.stale_ms
            && !self.warned
        {
            self.warned = true;
            let age = if stale_ms < 1_000 { "less than 1".to_owned() } else { (stale_ms / 1_000).to_string() };
            self.screen.warn(&format!("this answer is {age} s old: no quorum (asked {})", answer.master))?;
        }
        if self.shows_as_of {
            let Answer { revision, as_of, stale_ms, master, .. } = &answer;
            if self.screen.format().is_for_people() {
                let age = stale_ms.map_or_else(|| "current".into(), |ms| format!("{} s old", ms / 1_000));
                self.screen.note(&format!("as of {as_of}, revision {revision}, by {master}: {age}"))?;
            }
            self.screen.stamp(json!({ "revision": revision, "as_of": as_of, "stale_ms": stale_ms, "master": master }));
        }
        Ok(answer.value)
    }

    /// Asks the operator to confirm `question`. Refuses where nobody can answer.
    pub fn confirm(&mut self, question: &str) -> Result<(), CliError> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            let message = format!("{question} Nobody can be asked, stdin is no terminal: add --yes to go ahead");
            return Err(CliError::Usage(message));
        }
        self.screen.ask(&format!("{question} Proceed? [y/N] "))?;
        let mut line = String::new();
        stdin.lock().read_line(&mut line)?;
        if matches!(line.trim().to_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(CliError::Declined) }
    }
}
