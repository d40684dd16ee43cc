//! Asks the person at the terminal for a secret, without showing it.

use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use zeroize::Zeroizing;

/// Prompts on the terminal of this process, whatever stdin and stdout are, and reads one line that is not shown.
pub fn ask_secret(prompt: &str) -> io::Result<Zeroizing<String>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    if !isatty(&terminal) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "there is no terminal to ask on"));
    }
    let shown = tcgetattr(&terminal)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    (&terminal).write_all(prompt.as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    let mut line = Zeroizing::new(String::new());
    let read = BufReader::new(&terminal).read_line(&mut line);
    // Shown again whatever was read; an error of the reading says more.
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &shown);
    (&terminal).write_all(b"\n")?;
    read?;
    restored?;
    Ok(Zeroizing::new(line.trim_end_matches(['\n', '\r']).to_owned()))
}
