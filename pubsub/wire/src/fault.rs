//! Fault points: named places at which a test makes a process die, wait or fail.
//!
//! ```text
//!   fault_point!("log.sync.before")                      nothing, unless armed: panic, abort, sleep
//!   fault_point!("log.sync.before", cause => return …)   also: error, with what the code does with one
//!
//!   SALTERN_FAULTS="log.sync.before=abort@3;publish.after=sleep:200@1+"     armed from the start
//!   SALTERN_FAULT_SOCKET=/path    a unix socket that takes lines: `arm SPEC`, `clear`, `list`
//! ```
//!
//! Supervisors have no socket of their own: each takes what is due from its minion's when it starts. A fault of theirs counts
//! supervisors, so `job.run.before=abort@3` happens in the third one from now on.
//!
//! **Invariants.** Without the feature `faults` the macro is nothing at all, and there is no code, no name and no socket.
//! With it the program does not compile without debug assertions: no release can contain a fault point. Every name stands in
//! [`POINTS`], which the compiler checks. An action fires once, at the hit that it names, or from that hit on (`@3+`).
//!
//! **It refuses** an unknown name or action, and `error` at a point whose code has nothing to do with one: a fault that was
//! asked for and does not happen would make a test worth nothing.

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!(
    "fault points are for tests and never part of a release: build it without the feature `faults` \
     (`cargo build --release -p saltern-cluster -p saltern-minion -p saltern-ops`)"
);

/// A named place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its name: the thing, what happens to it, before or after.
    pub name: &'static str,
    /// Which program passes it.
    pub program: Program,
    /// Whether its code knows what to do with an error.
    pub fallible: bool,
}

/// The programs that have fault points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `saltern-master`.
    Master,
    /// `saltern-minion`.
    Minion,
    /// The supervisor of one job, a process of `saltern-minion`.
    Supervisor,
}

const fn point(name: &'static str, program: Program, fallible: bool) -> Point {
    Point { name, program, fallible }
}

/// Every fault point there is.
pub const POINTS: [Point; 31] = {
    use Program::{Master, Minion, Supervisor};
    [
        point("log.append.before", Master, true),
        point("log.append.after", Master, false),
        point("log.sync.before", Master, true),
        point("log.sync.after", Master, false),
        point("vote.save.before", Master, false),
        point("vote.save.after", Master, false),
        point("mark.write.before", Master, true),
        point("mark.write.after", Master, false),
        point("apply.before", Master, false),
        point("apply.after", Master, false),
        point("snapshot.rename.before", Master, true),
        point("snapshot.rename.after", Master, false),
        point("snapshot.install.before", Master, true),
        point("snapshot.install.after", Master, false),
        point("publish.before", Master, false),
        point("publish.after", Master, false),
        point("return.commit.before", Master, false),
        point("return.commit.after", Master, false),
        point("return.acknowledge.after", Master, false),
        point("journal.append.before", Minion, true),
        point("journal.append.after", Minion, false),
        point("job.start.before", Minion, false),
        point("job.start.after", Minion, false),
        point("job.accept.after", Minion, false),
        point("outbox.send.before", Minion, false),
        point("outbox.remove.before", Minion, false),
        point("outbox.remove.after", Minion, false),
        point("job.run.before", Supervisor, false),
        point("job.run.after", Supervisor, false),
        point("outbox.rename.before", Supervisor, true),
        point("outbox.rename.after", Supervisor, false),
    ]
};

/// The place of `name` in [`POINTS`].
#[must_use]
pub const fn place_of(name: &str) -> Option<usize> {
    let mut at = 0;
    while at < POINTS.len() {
        if same(POINTS[at].name.as_bytes(), name.as_bytes()) {
            return Some(at);
        }
        at += 1;
    }
    None
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Passes a fault point. See [the module](crate::fault).
#[cfg(feature = "faults")]
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {{
        const PLACE: usize = $crate::fault::place_of($name).expect("a name in POINTS");
        // Its only outcome that needs an answer is refused at this point when it is armed.
        let _ = $crate::fault::pass(PLACE);
    }};
    ($name:literal, $cause:ident => $otherwise:expr) => {{
        const PLACE: usize = $crate::fault::place_of($name).expect("a name in POINTS");
        const _: () = assert!($crate::fault::POINTS[PLACE].fallible, "a point that takes an error");
        if let Err($cause) = $crate::fault::pass(PLACE) {
            $otherwise
        }
    }};
}

/// Passes a fault point: nothing, in this build.
#[cfg(not(feature = "faults"))]
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {};
    ($name:literal, $cause:ident => $otherwise:expr) => {};
}

/// Takes what the environment asks for. For the beginning of `main`; without the feature it does nothing.
#[cfg(not(feature = "faults"))]
pub fn start() {}

#[cfg(feature = "faults")]
pub use armed::{Action, Fault, FaultSpecError, arm, clear, hits, parse, pass, start};

#[cfg(feature = "faults")]
mod armed {
    use super::{POINTS, Program, place_of};
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
    use std::time::Duration;

    /// What happens at a point.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Action {
        /// The thread panics.
        Panic,
        /// The process dies at once, as under kill -9: nothing is flushed, nothing is dropped.
        Abort,
        /// The thread waits.
        Sleep(Duration),
        /// The code is told that what it does has failed.
        Error,
    }

    /// An action, and when it happens.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Fault {
        /// The point, by its place in [`POINTS`].
        pub place: usize,
        /// What happens.
        pub action: Action,
        /// At which hit after arming, from 1.
        pub hit: u64,
        /// Also at every later hit.
        pub onwards: bool,
    }

    /// Why a fault cannot be armed.
    #[derive(Debug, thiserror::Error)]
    #[error(
        "{spec:?} is no fault: {cause}; write NAME=panic|abort|error|sleep:MS, then @HIT or @HIT+ if not at the first"
    )]
    pub struct FaultSpecError {
        spec: String,
        cause: String,
    }

    struct Armed {
        fault: Fault,
        /// Hits still to come before it happens.
        left: u64,
    }

    static ANY: AtomicBool = AtomicBool::new(false);
    static HITS: [AtomicU64; POINTS.len()] = [const { AtomicU64::new(0) }; POINTS.len()];
    static ARMED: Mutex<Vec<Armed>> = Mutex::new(Vec::new());

    fn armed() -> MutexGuard<'static, Vec<Armed>> {
        ARMED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one fault.
    pub fn parse(spec: &str) -> Result<Fault, FaultSpecError> {
        let refuse = |cause: String| FaultSpecError { spec: spec.into(), cause };
        let (name, rest) = spec.trim().split_once('=').ok_or_else(|| refuse("there is no `=`".into()))?;
        let place = place_of(name).ok_or_else(|| refuse(format!("there is no fault point {name:?}")))?;
        let (action, when) = rest.split_once('@').unwrap_or((rest, "1"));
        let action = match action.split_once(':').unwrap_or((action, "")) {
            ("panic", "") => Action::Panic,
            ("abort", "") => Action::Abort,
            ("error", "") if POINTS[place].fallible => Action::Error,
            ("error", "") => return Err(refuse(format!("{name} takes no error"))),
            ("sleep", ms) => {
                let ms = ms.parse().map_err(|_| refuse(format!("{ms:?} is no number of milliseconds")))?;
                Action::Sleep(Duration::from_millis(ms))
            }
            _ => return Err(refuse(format!("there is no action {action:?}"))),
        };
        let (number, onwards) = when.strip_suffix('+').map_or((when, false), |number| (number, true));
        let hit = number.parse().ok().filter(|hit| *hit > 0);
        let hit = hit.ok_or_else(|| refuse(format!("{number:?} is no number of a hit, they count from 1")))?;
        Ok(Fault { place, action, hit, onwards })
    }

    /// Arms `fault`, in place of what was armed at its point.
    pub fn arm(fault: Fault) {
        let mut armed = armed();
        armed.retain(|other| other.fault.place != fault.place);
        armed.push(Armed { fault, left: fault.hit });
        ANY.store(true, Ordering::Release);
    }

    /// Disarms everything.
    pub fn clear() {
        armed().clear();
        ANY.store(false, Ordering::Release);
    }

    /// How often each point was passed, in the order of [`POINTS`].
    #[must_use]
    pub fn hits() -> Vec<u64> {
        HITS.iter().map(|hits| hits.load(Ordering::Relaxed)).collect()
    }

    /// Passes the point at `place`. An error is what the code is to fail with.
    pub fn pass(place: usize) -> Result<(), String> {
        start();
        let hit = HITS[place].fetch_add(1, Ordering::Relaxed) + 1;
        if !ANY.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(action) = due(place) else { return Ok(()) };
        let name = POINTS[place].name;
        // Whoever armed it looks for this line: a fault that was not seen did not happen.
        eprintln!("fault point {name}: {action:?} at hit {hit}");
        match action {
            Action::Panic => panic!("the fault point {name}"),
            Action::Abort => std::process::abort(),
            Action::Sleep(pause) => {
                std::thread::sleep(pause);
                Ok(())
            }
            Action::Error => Err(format!("the fault point {name}")),
        }
    }

    /// The action that is due at this hit, if any.
    fn due(place: usize) -> Option<Action> {
        let mut armed = armed();
        let at = armed.iter().position(|armed| armed.fault.place == place)?;
        let found = &mut armed[at];
        found.left = found.left.saturating_sub(1);
        if found.left > 0 {
            return None;
        }
        let action = found.fault.action;
        if !found.fault.onwards {
            armed.remove(at);
        }
        Some(action)
    }

    /// Takes what the environment asks for, once. A wrong wish ends the process: whoever wrote it relies on it.
    pub fn start() {
        static STARTED: OnceLock<()> = OnceLock::new();
        STARTED.get_or_init(|| {
            for spec in std::env::var("SALTERN_FAULTS").unwrap_or_default().split(';').filter(|spec| !spec.is_empty()) {
                match parse(spec) {
                    Ok(fault) => arm(fault),
                    Err(error) => {
                        eprintln!("SALTERN_FAULTS: {error}");
                        std::process::abort();
                    }
                }
            }
            if let Some(path) = std::env::var_os("SALTERN_FAULT_SOCKET") {
                listen(std::path::Path::new(&path));
            }
        });
    }

    /// Serves the control socket; a supervisor, which inherits its minion's environment, asks there what is due. It must
    /// not serve the socket even if its minion is dead: the next minion will.
    fn listen(path: &std::path::Path) {
        if std::env::args_os().nth(1).is_some_and(|argument| argument == "supervise") {
            take(path).into_iter().for_each(arm);
            return;
        }
        // A process that was killed leaves its socket behind.
        let _ = std::fs::remove_file(path);
        match UnixListener::bind(path) {
            Ok(listener) => drop(std::thread::spawn(move || listener.incoming().flatten().for_each(serve))),
            Err(error) => {
                eprintln!("SALTERN_FAULT_SOCKET: {}: {error}", path.display());
                std::process::abort();
            }
        }
    }

    /// What is due in this supervisor. None if its minion is dead.
    fn take(path: &std::path::Path) -> Vec<Fault> {
        let Ok(mut minion) = UnixStream::connect(path) else { return Vec::new() };
        let mut line = String::new();
        if writeln!(minion, "take").is_err() || BufReader::new(minion).read_line(&mut line).is_err() {
            return Vec::new();
        }
        line.trim().split(';').filter_map(|spec| parse(spec).ok()).collect()
    }

    /// The faults of supervisors that are due in the one that asks now.
    fn hand_out() -> String {
        let of_supervisors = |point: &&super::Point| point.program == Program::Supervisor;
        let due = POINTS.iter().filter(of_supervisors).filter_map(|point| {
            let action = match due(place_of(point.name)?)? {
                Action::Panic => "panic".to_owned(),
                Action::Abort => "abort".to_owned(),
                Action::Error => "error".to_owned(),
                Action::Sleep(pause) => format!("sleep:{}", pause.as_millis()),
            };
            Some(format!("{}={action}", point.name))
        });
        due.collect::<Vec<_>>().join(";")
    }

    /// Answers every line of one caller with one line: `ok`, hits by name, or what is wrong.
    fn serve(caller: UnixStream) {
        let Ok(mut answers) = caller.try_clone() else { return };
        for line in BufReader::new(caller).lines() {
            let Ok(line) = line else { return };
            if writeln!(answers, "{}", answer(line.trim())).is_err() {
                return;
            }
        }
    }

    fn answer(line: &str) -> String {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("arm", spec) => match parse(spec) {
                Ok(fault) => {
                    arm(fault);
                    "ok".into()
                }
                Err(error) => error.to_string(),
            },
            ("clear", "") => {
                clear();
                "ok".into()
            }
            ("take", "") => hand_out(),
            ("list", "") => {
                let rows = POINTS.iter().zip(hits()).map(|(point, hits)| format!("{}={hits}", point.name));
                rows.collect::<Vec<_>>().join(" ")
            }
            _ => format!("{line:?} is none of `arm SPEC`, `clear`, `list`"),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_wish_is_read_and_a_wrong_one_is_named() {
            let fault = parse("log.sync.before=sleep:20@3+").expect("a fault");
            assert_eq!(POINTS[fault.place].name, "log.sync.before");
            assert_eq!((fault.action, fault.hit, fault.onwards), (Action::Sleep(Duration::from_millis(20)), 3, true));
            for (wrong, says) in [
                ("log.sync.before", "no `=`"),
                ("log.sync=abort", "no fault point \"log.sync\""),
                ("publish.after=error", "takes no error"),
                ("publish.after=explode", "no action \"explode\""),
                ("publish.after=sleep:soon", "\"soon\" is no number of milliseconds"),
                ("publish.after=abort@0", "count from 1"),
            ] {
                let refused = parse(wrong).expect_err(wrong).to_string();
                assert!(refused.contains(says), "{refused}");
            }
        }

        /// One test, because the table of armed faults is the process's.
        #[test]
        fn a_fault_happens_at_its_hit_and_once() {
            let place = place_of("snapshot.rename.before").expect("a point");
            arm(parse("snapshot.rename.before=error@2").expect("a fault"));
            let failed: Vec<_> = (0..4).map(|_| pass(place).is_err()).collect();
            assert_eq!(failed, [false, true, false, false]);
            arm(parse("snapshot.rename.before=error@2+").expect("a fault"));
            let failed: Vec<_> = (0..4).map(|_| pass(place).is_err()).collect();
            assert_eq!(failed, [false, true, true, true]);
            assert_eq!(answer("clear"), "ok");
            assert!(pass(place).is_ok());
            assert!(answer("list").contains("snapshot.rename.before=9"), "{}", answer("list"));
            assert!(answer("arm nothing").contains("no `=`"));
            // A supervisor's fault counts those who ask for it.
            assert_eq!(answer("arm job.run.after=sleep:70@2"), "ok");
            let handed: Vec<_> = (0..3).map(|_| answer("take")).collect();
            assert_eq!(handed, ["", "job.run.after=sleep:70", ""]);
        }
    }
}
