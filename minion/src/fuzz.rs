//! Fuzz targets: whatever may stand in a minion's data folder, and whatever order of things may happen to its decisions.

use crate::book::MineFile;
use crate::delivery::{Delivery, Loaded, Settled, Source};
use crate::executor::Work;
use crate::folder::{Born, Folder, KeptDirectory, ReportedFacts};
use crate::journal::{Health, Journal};
use crate::ledger::{Entry, Ledger};
use crate::outbox::{self, Outbox};
use crate::rules::{Action, Room, Rules, interrupted};
use crate::testing::{self, MemoryDisk};
use crate::trust::Trust;
use saltern_wire::codec::{Encoded, decode, encode};
use saltern_wire::fanout::Offer;
use saltern_wire::io::Disk;
use saltern_wire::job::{Outcome, OutcomeKind, Recorded};
use saltern_wire::{JobId, LogicalTime, Map, MinionId};
use std::path::Path;
use std::sync::Arc;

fn jid(number: u64) -> JobId {
    JobId::mint(testing::time(number), 1)
}

#[test]
fn fuzz_journal() {
    let path = Path::new("/journal");
    let entries = [
        Entry::Floor { expires: testing::time(1), opened: LogicalTime::ZERO },
        Entry::Accepted {
            jid: jid(2),
            opened: testing::time(2),
            expires: testing::time(9),
            function: "cmd.run".into(),
        },
        Entry::Settled { jid: jid(2) },
        Entry::Refused { jid: jid(3), expires: testing::time(9), reason: "full".into() },
    ];
    let disk = Arc::new(MemoryDisk::default());
    let (mut journal, mut ledger, _) = Journal::open(disk.clone(), path.into()).expect("opens");
    for (count, entry) in entries.iter().enumerate() {
        ledger.apply(entry);
        journal.append(std::slice::from_ref(entry), &ledger).expect("written");
        let bytes = disk.read(path, 1 << 20).expect("read").expect("there");
        saltern_wire::keep!("journal", &format!("records-{count}"), bytes);
    }
    saltern_wire::fuzz!("journal", |bytes: &[u8]| {
        let disk = Arc::new(MemoryDisk::default());
        disk.replace(path, bytes).expect("written");
        let (mut journal, ledger, health) = Journal::open(disk.clone(), path.into()).expect("opens");
        let kept = disk.read(&path.with_extension("damaged"), 1 << 20).expect("read");
        assert_eq!(kept.is_some(), health == Health::Damaged, "damaged bytes are kept, others are not");
        assert!(health != Health::Damaged || ledger.is_lost(), "what is lost is said");
        journal.rewrite(&ledger).expect("written");
        let (_, again, health_again) = Journal::open(disk, path.into()).expect("opens");
        assert_eq!((again, health_again), (ledger, Health::Whole), "what was read is written and read again");
        health == Health::Whole
    });
}

#[test]
fn fuzz_outbox_file() {
    let path = Path::new("/outbox").join(jid(1).to_string());
    for (name, outcome) in [("interrupted", interrupted("cmd.run")), ("finished", finished())] {
        let disk = MemoryDisk::default();
        outbox::write(&disk, Path::new("/outbox"), jid(1), &outcome).expect("written");
        saltern_wire::keep!("outbox_file", name, disk.read(&path, 1 << 20).expect("read").expect("there"));
    }
    saltern_wire::fuzz!("outbox_file", |bytes: &[u8]| {
        let disk = Arc::new(MemoryDisk::default());
        disk.replace(&path, bytes).expect("written");
        let mut outbox = Outbox::open(disk.clone(), "/outbox".into()).expect("opens");
        let parts = outbox.load(jid(1)).expect("read");
        let body: Vec<u8> = parts.iter().flat_map(|part| part.body.clone()).collect();
        let outcome: Outcome = decode(&body).expect("whatever is sent is an outcome");
        assert_eq!(outbox.load(jid(1)).expect("read"), parts, "the same each time");
        let aside = disk.read(&path.with_extension("aside"), 1 << 20).expect("read");
        assert!(aside.as_deref().is_none_or(|aside| aside == bytes), "kept as it was");
        assert!(aside.is_none() || outcome.kind == OutcomeKind::Interrupted);
        aside.is_none()
    });
}

fn finished() -> Outcome {
    let value = serde_json::json!({"b": [1, -1.5, null], "a": "text"});
    Outcome { kind: OutcomeKind::Finished, success: true, retcode: 0, value, duration_ms: 12 }
}

/// A record of the data folder: what decodes is encoded to something that decodes to the same.
fn is_record<T: Encoded + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(record) = decode::<T>(bytes) else { return false };
    let again: T = decode(&encode(&record)).expect("what was encoded decodes");
    assert_eq!(again, record);
    true
}

#[test]
fn fuzz_folder_files() {
    let work = Work {
        jid: jid(1),
        minion: MinionId::new("web-1").expect("an id"),
        function: "cmd.run".into(),
        arguments: vec!["ls".into(), 5.into()],
        keywords: Map::new(),
        user: "root".into(),
        target: testing::job(1, "cmd.run").target,
        output_bytes_max: 1 << 20,
        pid: 7,
    };
    let directory = KeptDirectory { ca: testing::ca().public_key(), directory: testing::directory(3, 1, &[1, 2]) };
    saltern_wire::keep!("folder_files", "born", encode(&Born { incarnation: 7 }));
    saltern_wire::keep!("folder_files", "facts", encode(&ReportedFacts::default()));
    saltern_wire::keep!("folder_files", "mine", encode(&MineFile { reserved: 9, names: ["a".into()].into() }));
    saltern_wire::keep!("folder_files", "started", encode(&work));
    saltern_wire::keep!("folder_files", "directory", encode(&directory));
    saltern_wire::fuzz!("folder_files", |bytes: &[u8]| {
        let disk = Arc::new(MemoryDisk::default());
        for name in ["born", "facts", "directory", "grains"] {
            disk.replace(&Path::new("/data").join(name), bytes).expect("written");
        }
        let folder = Folder::at(disk, "/data");
        let kept = folder.directory();
        let is_known = [
            is_record::<Born>(bytes),
            is_record::<ReportedFacts>(bytes),
            is_record::<MineFile>(bytes),
            is_record::<Work>(bytes),
            kept.is_ok(),
        ];
        // A directory is believed under the pin only, whatever stands in the file.
        if let Ok(Some(kept)) = kept {
            let mut trust = Trust::new(testing::ca().public_key().fingerprint());
            if trust.handle_directory(kept.ca, &kept.directory).is_ok() {
                assert_eq!(trust.generation(), 3, "only what was signed is obeyed");
            }
        }
        let _ = (folder.grains(), folder.reported_facts());
        is_known.contains(&true)
    });
}

/// How many jobs a script knows.
const JOBS: usize = 6;

/// One minion's decisions, its journal as it would be after a crash, and how often each job started.
struct Scene {
    rules: Rules,
    delivery: Delivery,
    disk: Vec<Entry>,
    running: [bool; JOBS],
    starts: [u32; JOBS],
    outcomes: [u32; JOBS],
}

/// Every offer that a script may make, signed once: jobs by two masters, forged, of an old generation, for others, and pure.
struct Offers(Vec<(usize, Offer)>);

impl Offers {
    fn new() -> Self {
        let mut all = Vec::new();
        for number in 0..JOBS {
            for master in [1, 2] {
                let mut job = testing::job(number as u64, "cmd.run");
                job.master = saltern_wire::MasterId(master);
                all.push((number, testing::offer(&job, &testing::master(master))));
            }
        }
        let mut other = testing::job(7, "cmd.run");
        other.targets = roaring::RoaringBitmap::from_iter([6]);
        let mut old = testing::job(8, "cmd.run");
        old.generation = 2;
        let pure = testing::job(9, "test.ping");
        for job in [&other, &old, &pure] {
            all.push((JOBS, testing::offer(job, &testing::master(1))));
        }
        all.push((JOBS, testing::offer(&testing::job(0, "cmd.run"), &testing::master(99))));
        Self(all)
    }
}

impl Scene {
    fn new() -> Self {
        let rules = testing::rules(Ledger::default());
        let (disk, delivery) = (Vec::new(), Delivery::default());
        Self { rules, delivery, disk, running: [false; JOBS], starts: [0; JOBS], outcomes: [0; JOBS] }
    }

    fn number(jid: JobId) -> Option<usize> {
        (0..JOBS).find(|number| self::jid(*number as u64) == jid)
    }

    /// Carries out what was decided, as the agent does. `writable`: whether the journal takes it; `kept`: whether the bytes
    /// of a write that failed are there after a crash all the same.
    fn perform(&mut self, actions: Vec<Action>, writable: bool, kept: bool) {
        for action in actions {
            match action {
                Action::Journal(entries) if writable => {
                    // A write after one that failed writes everything anew.
                    let _ = entries;
                    self.disk = self.rules.ledger().entries();
                }
                Action::Journal(entries) => {
                    let answers = self.rules.handle_unwritable(&entries, "full");
                    if kept {
                        self.disk.extend(entries);
                    }
                    return self.perform(answers, false, false);
                }
                Action::Start(job) => {
                    let number = Self::number(job.jid).expect("only genuine jobs for this minion start");
                    self.starts[number] += 1;
                    self.running[number] = true;
                }
                Action::Answer(jid, outcome) => {
                    assert_eq!(outcome.kind, OutcomeKind::Refused);
                    let parts = saltern_wire::job::ReturnPart::split(jid, &outcome).expect("it is small");
                    self.delivery.add(jid, Source::Memory(Arc::new(parts)));
                }
                Action::RunPure(job) => self.rules.handle_pure_done(job.jid),
                Action::Inside(_) | Action::Accept(_) | Action::Ignore(..) => {}
            }
        }
    }

    /// The next life: what runs under supervisors goes on, everything in memory is gone.
    fn restart(&mut self) {
        let mut ledger = Ledger::default();
        self.disk.iter().for_each(|entry| ledger.apply(entry));
        self.rules = testing::rules(ledger);
        self.delivery = Delivery::default();
    }

    fn finish(&mut self, number: usize) {
        if std::mem::take(&mut self.running[number]) {
            self.outcomes[number] += 1;
            self.delivery.add(jid(number as u64), Source::Disk);
        }
    }

    /// A master commits what waits.
    fn commit(&mut self) {
        let load = |jid, _| {
            let parts = saltern_wire::job::ReturnPart::split(jid, &interrupted("cmd.run"));
            parts.map_or(Loaded::Unreadable, Loaded::Parts)
        };
        while let Some((parts, flight)) = self.delivery.next_call(usize::MAX, load) {
            let verdicts = vec![Recorded::Committed; parts.len()];
            let settled = self.delivery.handle_recorded(&flight, &verdicts);
            let jids: Vec<JobId> = settled
                .iter()
                .map(|settled| match settled {
                    Settled::Done(jid, ..) | Settled::Invalid(jid, ..) => *jid,
                })
                .collect();
            let entries = self.rules.handle_settled(&jids);
            self.disk.extend(entries);
        }
    }

    /// One step, as two bytes say.
    fn step(&mut self, offers: &Offers, what: u8, which: u8) {
        let full = Room { refuse: Some("the outbox is full".into()) };
        let (_, offer) = &offers.0[usize::from(which) % offers.0.len()];
        match what % 12 {
            0..=2 => {
                let actions = self.rules.handle_offer(offer, &Room::default());
                self.perform(actions, true, false);
            }
            3 => {
                let actions = self.rules.handle_offer(offer, &full);
                self.perform(actions, true, false);
            }
            4 => {
                let actions = self.rules.handle_offer(offer, &Room::default());
                self.perform(actions, false, which.is_multiple_of(2));
            }
            5 => self.finish(usize::from(which) % JOBS),
            6 => self.commit(),
            7 => self.restart(),
            8 => {
                let actions = self.rules.handle_time(testing::time(u64::from(which) * 2_000));
                self.perform(actions, true, false);
                self.disk = self.rules.ledger().entries();
            }
            9 => {
                let masters: &[u64] = if which.is_multiple_of(2) { &[1, 2] } else { &[2] };
                let signed = testing::directory(3, u64::from(which), masters);
                let taken = self.rules.trust.handle_directory(testing::ca().public_key(), &signed);
                taken.expect("it is signed by the pinned CA");
            }
            10 => self.rules.handle_ordinal((!which.is_multiple_of(4)).then_some(testing::ORDINAL)),
            _ => {
                let entries = self.rules.handle_journal_lost();
                self.disk.extend(entries);
                self.restart();
            }
        }
    }
}

#[test]
fn fuzz_agent_rules() {
    let offers = Offers::new();
    saltern_wire::keep!("agent_rules", "once", [0, 0, 5, 0, 6, 0, 0, 1, 7, 0, 0, 0]);
    saltern_wire::keep!("agent_rules", "full", [4, 2, 4, 2, 0, 2, 7, 0, 0, 2, 3, 5, 0, 0]);
    saltern_wire::keep!("agent_rules", "lost", [0, 0, 11, 0, 0, 0, 8, 9, 0, 0, 9, 3, 0, 4]);
    saltern_wire::fuzz!("agent_rules", |bytes: &[u8]| {
        let mut scene = Scene::new();
        // Longer stories are the same steps again; each costs a signature.
        for step in bytes.chunks_exact(2).take(24) {
            scene.step(&offers, step[0], step[1]);
        }
        assert!(scene.starts.iter().all(|starts| *starts <= 1), "started more than once: {:?}", scene.starts);
        assert!(scene.outcomes.iter().zip(scene.starts).all(|(outcomes, starts)| *outcomes <= starts));
        scene.starts.contains(&1)
    });
}
