//! Golden scripts: every command family told as a story, on both engines at once. What they print is compared with each other
//! and with the files in `tests/scripts`.
//!
//! Commands: see [`Stage::perform`]. Every command takes `request=N`; `pass SECONDS` moves the clock; jobs and tokens have names.

use crate::world::{
    Bench, World, ca, digest, directory, facts, fingerprint, found, here, id, job, mine, outcome, parts, public_key,
    set, sign,
};
use goldenscript::{ArgumentConsumer, Context};
use saltern_store::AppliedEntry;
use saltern_store::command::{
    Command, Effect, JobCommand, KeyCommand, MasterCommand, MineAffirmation, MineCommand, Reply,
};
use saltern_wire::crypto::Signed;
use saltern_wire::job::{Outcome, OutcomeKind, ReturnPart};
use saltern_wire::key::KeyRecord;
use saltern_wire::mine::MineStamp;
use saltern_wire::rolling::{Rolling, WHOLE_MS};
use saltern_wire::{JobId, LogicalTime, Map, MasterId, Ordinal, RequestId, Value};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

type Fallible<T> = Result<T, Box<dyn Error>>;

struct Stage {
    worlds: [World; 2],
    _benches: [Bench; 2],
    jobs: BTreeMap<String, JobId>,
    begin: LogicalTime,
}

impl Stage {
    fn new() -> Self {
        let benches = Bench::both();
        let worlds = [World::new(&benches[0]), World::new(&benches[1])];
        let begin = worlds[0].now;
        Self { worlds, _benches: benches, jobs: BTreeMap::new(), begin }
    }

    fn apply(&mut self, request: Option<u8>, command: &Command) -> String {
        let request = request.map(|number| RequestId::from_bytes([number; 16]));
        let told = self.worlds.each_mut().map(|world| {
            let item = world.item_as(request, command.clone());
            world.state.apply(&[item]).unwrap().remove(0)
        });
        let [first, second] = told.map(|entry| self.tell(&entry));
        assert_eq!(first, second, "memory and rocks differ");
        first
    }

    fn tell(&self, entry: &AppliedEntry) -> String {
        let mut out = String::new();
        match &entry.applied {
            Ok(reply) => writeln!(out, "ok: {}", self.reply(reply)),
            Err(refused) => writeln!(out, "refused: {refused}"),
        }
        .unwrap();
        for effect in &entry.effects {
            writeln!(out, "  {}", self.effect(effect)).unwrap();
        }
        out
    }

    fn reply(&self, reply: &Reply) -> String {
        match reply {
            Reply::Done => "done".into(),
            Reply::Keys(keys) => format!("keys [{}]", keys.iter().map(key).collect::<Vec<_>>().join(", ")),
            Reply::Opened { jid, minions } => format!("opened {} for {minions:?}", self.job_name(*jid)),
            Reply::Recorded(verdicts) => format!("{verdicts:?}"),
            Reply::Joined { master } => format!("master {master}"),
            Reply::Token { expires } => format!("until +{}s", expires.since(self.begin).as_secs()),
        }
    }

    fn effect(&self, effect: &Effect) -> String {
        match effect {
            Effect::Key { record, deleted: false } => format!("key {}", key(record)),
            Effect::Key { record, deleted: true } => format!("key {} is gone", key(record)),
            Effect::JobOpened { jid, .. } => format!("job {} is open", self.job_name(*jid)),
            Effect::JobAccepted { accepted } => {
                let all =
                    accepted.iter().map(|(jid, ordinal)| format!("{} by {}", self.job_name(*jid), self.name(*ordinal)));
                format!("accepted {}", all.collect::<Vec<_>>().join(", "))
            }
            Effect::Returned { record } => {
                format!("{} returned {} for {}", record.minion, record.outcome.value, self.job_name(record.jid))
            }
            Effect::Settled { jid, ordinal, progress } => {
                format!("{} is {progress:?} for {}", self.name(*ordinal), self.job_name(*jid))
            }
            Effect::Released { jid, ordinals } => {
                let names: Vec<_> = ordinals.iter().map(|number| self.name(Ordinal(number))).collect();
                format!("the turn of {} has come for {}", names.join(", "), self.job_name(*jid))
            }
            Effect::JobStands { jid, stand, by } => {
                let by = by.as_deref().unwrap_or("its rule");
                format!("job {} by {by}: paused {}, ending {:?}", self.job_name(*jid), stand.paused, stand.ending)
            }
            Effect::JobDone { jid } => format!("job {} is done", self.job_name(*jid)),
            Effect::Facts { minion } => format!("facts of {minion}"),
            Effect::Mine { minion, functions } => format!("mine of {minion}: {}", functions.join(", ")),
            Effect::Directory { directory } => {
                let listed = directory.peek().unwrap();
                let names: Vec<_> =
                    listed.masters.iter().map(|master| format!("{}={}", master.id, master.name)).collect();
                format!("directory {}.{}: {}", listed.generation, listed.version, names.join(" "))
            }
            Effect::Settings { settings } => {
                let written: Map = settings.written().unwrap().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                format!("settings {}", Value::from(written))
            }
            Effect::Replaced => "everything".into(),
        }
    }

    fn job_name(&self, jid: JobId) -> String {
        let named = self.jobs.iter().find(|(_, known)| **known == jid);
        named.map_or_else(|| jid.to_string(), |(name, _)| name.clone())
    }

    fn name(&self, ordinal: Ordinal) -> String {
        self.worlds[0].state.name_of(ordinal).map_or_else(|| format!("#{ordinal}"), |name| name.to_string())
    }

    fn ordinal(&self, name: &str) -> Fallible<u32> {
        if let Some(number) = name.strip_prefix("no.") {
            return Ok(number.parse()?);
        }
        let held = self.worlds[0].state.key(&id(name)).and_then(|key| key.ordinal);
        Ok(held.ok_or_else(|| format!("{name} has no number"))?.0)
    }

    /// The jid of a job's name. A name that was never opened gets one that the truth does not hold.
    fn jid(&self, name: &str) -> JobId {
        let unknown = || JobId::mint(LogicalTime::from_unix_micros(1), name.len() as u64);
        self.jobs.get(name).copied().unwrap_or_else(unknown)
    }

    /// Turns a script's line into a command; `None` if it is a question.
    fn command(&mut self, verb: &str, args: &mut ArgumentConsumer<'_>) -> Fallible<Option<Command>> {
        let command = match verb {
            "tick" => Command::Tick,
            "submit" => {
                let number = args.take_key("key").unwrap_or("0").parse()?;
                let name = next(args)?;
                Command::Key(KeyCommand::Submit { minion: id(name), public_key: public_key(name, number) })
            }
            "accept" | "reject" | "delete" => {
                let number: u8 = args.take_key("key").unwrap_or("0").parse()?;
                let names = rest(args);
                let keys = names.iter().map(|name| (id(name), public_key(name, number).fingerprint())).collect();
                let by = "ops".into();
                Command::Key(match verb {
                    "accept" => KeyCommand::Accept { keys, by },
                    "reject" => KeyCommand::Reject { keys, by },
                    _ => KeyCommand::Delete { keys, by },
                })
            }
            "facts" => {
                let incarnation = args.take_key("incarnation").unwrap_or("1").parse()?;
                let os = args.take_key("os").unwrap_or("debian");
                facts(next(args)?, incarnation, os)
            }
            "open" => self.open(args)?,
            "pause" | "resume" => Command::Job(JobCommand::Pause {
                jid: self.jid(next(args)?),
                paused: verb == "pause",
                by: "ops".into(),
            }),
            "end" => Command::Job(JobCommand::End { jid: self.jid(next(args)?), by: "ops".into() }),
            "take" => {
                let jid = self.jid(next(args)?);
                let names = rest(args);
                let accepted = names.iter().map(|name| Ok((jid, Ordinal(self.ordinal(name)?))));
                Command::Job(JobCommand::Accept { accepted: accepted.collect::<Fallible<_>>()? })
            }
            "return" => self.record(args)?,
            "mine" => {
                let stamp = args.take_key("stamp").unwrap_or("1.1").split_once('.').ok_or("stamp=I.C")?;
                let stamp = (stamp.0.parse()?, stamp.1.parse()?);
                let ordinal = self.ordinal(next(args)?)?;
                match args.next_key() {
                    Some((function, value)) => mine(ordinal, function, Some(value.into()), stamp),
                    None => mine(ordinal, next(args)?, None, stamp),
                }
            }
            "affirm" => {
                let mut stamp = |name| -> Fallible<MineStamp> {
                    let (incarnation, counter) = args.take_key(name).unwrap_or("1.1").split_once('.').ok_or("I.C")?;
                    Ok(MineStamp { incarnation: incarnation.parse()?, counter: counter.parse()? })
                };
                let (held, stamp) = (stamp("held")?, stamp("stamp")?);
                let (minion, function) = (Ordinal(self.ordinal(next(args)?)?), next(args)?.to_owned());
                let affirmed = vec![MineAffirmation { minion, function, held, stamp }];
                Command::Mine(MineCommand::Affirm { affirmed })
            }
            "found" => found(),
            "token" => {
                let (ttl, uses) = (args.take_key("ttl").unwrap_or("600"), args.take_key("uses").unwrap_or("1"));
                let (ttl_ms, uses) = (ttl.parse::<u64>()? * 1000, uses.parse()?);
                Command::Master(MasterCommand::Token { secret_hash: hash(next(args)?), ttl_ms, uses })
            }
            "join" => {
                let number = args.take_key("key").unwrap_or("0").parse()?;
                let (secret_hash, name) = (hash(next(args)?), next(args)?);
                let public_key = public_key(name, number);
                Command::Master(MasterCommand::Join { secret_hash, name: name.into(), public_key })
            }
            "rejoin" => {
                let number = args.take_key("key").unwrap_or("0").parse()?;
                let (gone, name) = (MasterId(next(args)?.parse()?), next(args)?);
                let public_key = public_key(name, number);
                Command::Master(MasterCommand::Rejoin { gone, name: name.into(), public_key })
            }
            "directory" => {
                let version = args.take_key("version").ok_or("version=N")?.parse()?;
                let generation = args.take_key("generation").unwrap_or("1").parse()?;
                let forged = args.take_key("forged").is_some();
                let mut masters: Vec<(u64, String)> = Vec::new();
                while let Some((id, name)) = args.next_key() {
                    masters.push((id.parse()?, name.into()));
                }
                let masters: Vec<(u64, &str)> = masters.iter().map(|(id, name)| (*id, name.as_str())).collect();
                let mut directory = directory(generation, version, &masters);
                if forged {
                    let stranger = saltern_wire::crypto::Identity::from_seed([66; 32]);
                    assert_ne!(stranger.public_key(), ca().public_key());
                    directory = Signed::new(&directory.peek()?, &stranger);
                }
                Command::Master(MasterCommand::Directory { directory })
            }
            "set" => {
                let (name, value) = (next(args)?, next(args)?);
                set(name, serde_json::from_str(value).unwrap_or_else(|_| value.into()))
            }
            _ => return Ok(None),
        };
        Ok(Some(command))
    }

    fn open(&mut self, args: &mut ArgumentConsumer<'_>) -> Fallible<Command> {
        let ttl: u64 = args.take_key("ttl").unwrap_or("60").parse()?;
        let foreign = args.take_key("foreign").is_some();
        let rolling = match args.take_key("batch") {
            None => None,
            Some(size) => Some(Rolling {
                size: size.parse()?,
                wait_ms: args.take_key("wait").unwrap_or("0").parse::<u64>()? * 1000,
                failhard: args.take_key("failhard").is_some(),
                turn_ms: ttl * 1000,
            }),
        };
        let name = next(args)?;
        let ordinals = rest(args).iter().map(|name| self.ordinal(name)).collect::<Fallible<Vec<_>>>()?;
        let slot = self.jobs.len() as u64 + 1;
        let whole = if rolling.is_some() { WHOLE_MS } else { ttl * 1000 };
        let mut intent = job(self.worlds[0].now, slot, &ordinals, whole);
        if foreign {
            intent.cluster = saltern_wire::ClusterId::from_bytes([8; 16]);
        }
        intent.jid = *self.jobs.entry(name.into()).or_insert(intent.jid);
        let job = sign(&intent);
        Ok(Command::Job(match rolling {
            None => JobCommand::Open { job },
            Some(rolling) => JobCommand::Roll { job, rolling },
        }))
    }

    fn record(&mut self, args: &mut ArgumentConsumer<'_>) -> Fallible<Command> {
        let kind = match args.take_key("kind") {
            Some("interrupted") => OutcomeKind::Interrupted,
            Some("refused") => OutcomeKind::Refused,
            _ => OutcomeKind::Finished,
        };
        let success = args.take_key("success").is_none_or(|text| text == "true");
        let value = args.take_key("value").unwrap_or("true").to_string();
        let jid = self.jid(next(args)?);
        let part: ReturnPart = parts(jid, &Outcome { kind, ..outcome(&value, success) }).remove(0);
        let names = rest(args);
        let returns = names.iter().map(|name| Ok((Ordinal(self.ordinal(name)?), part.clone())));
        Ok(Command::Job(JobCommand::Record { returns: returns.collect::<Fallible<_>>()? }))
    }

    /// Answers a question.
    fn ask(&self, verb: &str, args: &mut ArgumentConsumer<'_>) -> Fallible<String> {
        let state = &self.worlds[0].state;
        let mut lines: Vec<String> = Vec::new();
        match verb {
            "keys" => lines.extend(state.keys().iter().chain(&state.denied()?).map(key)),
            "accepted" => lines.extend(state.accepted().iter().map(|(ordinal, name)| format!("{ordinal} {name}"))),
            "grains" => lines.push(match state.facts(&id(next(args)?))? {
                None => "none".into(),
                Some(facts) => format!(
                    "incarnation {} since +{}s {}",
                    facts.incarnation,
                    facts.enrolled.since(self.begin).as_secs(),
                    serde_json::to_string(&facts.facts)?
                ),
            }),
            "progress" => {
                let all = state.progress(&self.jid(next(args)?))?;
                lines.extend(all.iter().map(|(ordinal, name, progress)| format!("{ordinal} {name} {progress:?}")));
            }
            "returns" => {
                let all = state.returns(&self.jid(next(args)?))?;
                lines.extend(all.iter().map(|record| format!("{} {}", record.minion, record.outcome.value)));
            }
            "orphans" => {
                let all = state.orphans(&self.jid(next(args)?), 10)?;
                lines.extend(all.iter().map(|part| format!("{} part {:?}", part.minion, part.part)));
            }
            "owed" => {
                let owed = state.open_jobs_for(Ordinal(self.ordinal(next(args)?)?));
                lines.extend(owed.iter().map(|owed| {
                    format!("{} {}", self.job_name(owed.jid), if owed.accepted { "accepted" } else { "not accepted" })
                }));
            }
            "jobs" => lines.extend(state.jobs(None, 99, false)?.iter().map(|job| {
                let open = if job.done.is_some() { "done" } else { "open" };
                format!("{} {open} {}/{}", self.job_name(job.jid), job.returned, job.targeted)
            })),
            "values" => {
                let all = state.mine(&state.accepted_ordinals(), next(args)?)?;
                lines.extend(all.iter().map(|entry| {
                    format!("{} {} at {}.{}", entry.minion, entry.value, entry.stamp.incarnation, entry.stamp.counter)
                }));
            }
            "masters" => {
                lines.extend(state.masters()?.iter().map(|master| format!("{} {}", master.master, master.name)));
            }
            "due" => lines.push(match state.next_due()? {
                Some(due) => format!("+{}s", due.since(self.begin).as_secs()),
                None => "never".into(),
            }),
            _ => return Err(format!("unknown command {verb}").into()),
        }
        Ok(lines.into_iter().fold(String::new(), |out, line| out + &line + "\n"))
    }

    fn perform(&mut self, verb: &str, args: &mut ArgumentConsumer<'_>) -> Fallible<String> {
        if verb == "pass" {
            let seconds = next(args)?.parse()?;
            self.worlds.iter_mut().for_each(|world| world.pass(seconds));
            return Ok(String::new());
        }
        let request = args.take_key("request").map(str::parse).transpose()?;
        let answer = match self.command(verb, args)? {
            Some(command) => self.apply(request, &command),
            None => self.ask(verb, args)?,
        };
        args.reject_next()?;
        Ok(answer)
    }
}

impl goldenscript::Runner for Stage {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Fallible<String> {
        self.perform(&command.name, &mut command.consume_args())
    }

    fn end_script(&mut self) -> Fallible<()> {
        let [memory, rocks] = &self.worlds;
        assert_eq!(digest(&memory.state), digest(&rocks.state), "memory and rocks differ");
        Ok(())
    }
}

fn next<'a>(args: &mut ArgumentConsumer<'a>) -> Fallible<&'a str> {
    args.next_pos().ok_or_else(|| "an argument is missing".into())
}

fn rest<'a>(args: &mut ArgumentConsumer<'a>) -> Vec<&'a str> {
    std::iter::from_fn(|| args.next_pos()).collect()
}

fn hash(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}

fn key(record: &KeyRecord) -> String {
    let number = record.ordinal.map(|ordinal| format!("#{ordinal} ")).unwrap_or_default();
    let print = record.fingerprint().to_string();
    let by = record.decided_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let own = if record.fingerprint() == fingerprint(record.minion.as_str()) { "" } else { " (another key)" };
    format!("{number}{} {:?} {}{own}{by}", record.minion, record.state, &print[..8])
}

/// One test per family, so that a failing story is named.
macro_rules! families {
    ($($family:ident),*) => {
        $(#[test]
        fn $family() {
            let folder = here("scripts").join(stringify!($family));
            let mut stories: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            stories.sort();
            assert!(!stories.is_empty(), "{} is empty", folder.display());
            for story in stories {
                goldenscript::run(&mut Stage::new(), &story).unwrap_or_else(|error| panic!("{}: {error}", story.display()));
            }
        })*
    };
}

families!(keys, minions, jobs, rolling, returns, mines, masters, settings, ticks);
