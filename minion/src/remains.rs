//! What a supervisor that was killed leaves behind: the processes of its command, which nobody watches any more.
//!
//! ```text
//!   supervisor: setsid, SALTERN_JOB=JID in its environment ── sh -c … ── whatever it started     one session
//! ```
//!
//! **Invariants.** A session is a job's only if a process in it carries the job's name in its environment: a number that the
//! system gave to somebody else meanwhile is never killed. What left the session by itself, as a daemon does, is left alone,
//! as it is when a command ends by its timeout.
//!
//! **It refuses** to guess: a session none of whose processes carries the name (all of them cleared their environment) is
//! nobody's, and its processes run on.

use rustix::process::{Pid, Signal, kill_process};
use saltern_wire::JobId;
use std::io;
use std::path::Path;

/// The variable that carries a job's name through everything that its supervisor starts.
pub const JOB_VARIABLE: &str = "SALTERN_JOB";

/// Kills whatever of `jid` still lives in the session that `supervisor` led, and tells how many processes that were. Call it
/// again until it says 0: what is being forked while it looks is found the next time.
pub fn end(jid: JobId, supervisor: u32) -> io::Result<usize> {
    let members = members(Path::new("/proc"), i64::from(supervisor))?;
    let name = format!("{JOB_VARIABLE}={jid}");
    if !members.iter().any(|pid| carries(*pid, &name)) {
        return Ok(0);
    }
    for pid in &members {
        // It may have ended since it was listed.
        let _ = kill_process(*pid, Signal::KILL);
    }
    Ok(members.len())
}

/// The living processes of a session.
fn members(proc: &Path, session: i64) -> io::Result<Vec<Pid>> {
    let mut members = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        // A process that ended meanwhile has no status; a name may hold any bytes.
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else { continue };
        if session_of_living(&String::from_utf8_lossy(&stat)) == Some(session) {
            members.push(pid);
        }
    }
    Ok(members)
}

/// The session in a line of `/proc/PID/stat`; none for a process that only waits to be reaped.
fn session_of_living(stat: &str) -> Option<i64> {
    // The name is in brackets and may hold brackets and spaces itself: the fields begin behind the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let (_parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?);
    if matches!(state, "Z" | "X") { None } else { session.parse().ok() }
}

fn carries(pid: Pid, name: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::LogicalTime;

    #[test]
    fn a_name_with_brackets_does_not_hide_a_session() {
        assert_eq!(session_of_living("12 (sh) S 1 12 7 0 -1"), Some(7));
        assert_eq!(session_of_living("12 (a) Z 9 9 9) R 1 12 7 0 -1"), Some(7));
        assert_eq!(session_of_living("12 (sh) Z 1 12 7 0 -1"), None, "it is dead already");
        assert_eq!(session_of_living("12 (sh"), None);
    }

    #[test]
    fn a_session_of_somebody_else_is_left_alone() {
        let jid = JobId::mint(LogicalTime::from_unix_micros(1_795_392_390_000_000), 1);
        // A session of its own: the one that this test runs in may have begun outside of what /proc shows here.
        let mut stranger =
            std::process::Command::new("setsid").args(["sleep", "60"]).spawn().expect("setsid and sleep");
        let session = stranger.id();
        let leads = || members(Path::new("/proc"), i64::from(session)).expect("read").len() == 1;
        let mut looks = 0;
        while !leads() && looks < 500 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            looks += 1;
        }
        let ended = end(jid, session).expect("looked");
        let lives = stranger.try_wait().expect("ours").is_none();
        stranger.kill().expect("ours");
        stranger.wait().expect("ours");
        assert!(looks < 500, "it leads a session");
        assert_eq!((ended, lives), (0, true));
    }
}
