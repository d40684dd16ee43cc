//! Three tables that tell each other, with messages that arrive, get lost and come from another boot.

use super::*;
use Presentness::{Connected, Disconnected, Unknown};

const SECOND: Duration = Duration::from_secs(1);

fn minion(name: &str) -> MinionId {
    MinionId::new(name).expect("an id")
}

fn at(seconds: u64) -> LogicalTime {
    LogicalTime::from_unix_micros(seconds * 1_000_000)
}

fn seat(name: &str, since: u64) -> Seat {
    Seat { minion: minion(name), ordinal: Ordinal(1), since: at(since), version: "1".into() }
}

fn tables() -> [Table; 2] {
    let masters = BTreeSet::from([MasterId(1), MasterId(2)]);
    let table = |id: u64| {
        let mut table = Table::new(MasterId(id), id * 10);
        table.set_peers(&masters, Duration::ZERO);
        table
    };
    [table(1), table(2)]
}

/// One message from the first to the second; says what changed there.
fn tell(from: &mut Table, to: &mut Table, now: Duration) -> Change {
    let update = from.poll_update(to.own).expect("a peer");
    let (heard, mut change) = to.handle_update(from.own, update, now);
    from.handle_heard(to.own, Some(heard));
    if heard == Heard::Gap {
        let update = from.poll_update(to.own).expect("a peer");
        assert!(update.whole, "a gap is repaired by a whole list");
        let (heard, second) = to.handle_update(from.own, update, now);
        from.handle_heard(to.own, Some(heard));
        assert_eq!(heard, Heard::Taken);
        change = second;
    }
    change
}

fn check(table: &Table, name: &str, now: Duration, expect: (Presentness, Option<u64>, Option<u64>)) {
    let found = table.where_is(&minion(name), now);
    let expect = (expect.0, expect.1.map(MasterId), expect.2.map(at));
    assert_eq!((found.presence, found.master, found.since), expect, "{name}");
}

#[test]
fn who_comes_and_goes_at_one_master_is_known_at_the_other() {
    let [mut one, mut two] = tables();
    assert_eq!(one.attach(seat("a", 5)).new.len(), 1);
    check(&two, "a", SECOND, (Unknown, None, None));
    assert_eq!(tell(&mut one, &mut two, SECOND).new, BTreeSet::from([minion("a")]));
    check(&two, "a", SECOND, (Connected, Some(1), Some(5)));
    assert_eq!(two.coverage(SECOND), Coverage { heard: 2, all: 2 });
    one.attach(seat("b", 6));
    one.detach(&minion("a"), at(7));
    let update = one.poll_update(MasterId(2)).expect("a peer");
    assert!(!update.whole && update.attached.len() == 1 && update.departed.len() == 1, "only what changed: {update:?}");
    let (heard, change) = two.handle_update(MasterId(1), update, SECOND);
    one.handle_heard(MasterId(2), Some(heard));
    assert_eq!((change.new, change.lost), (BTreeSet::from([minion("b")]), BTreeSet::from([minion("a")])));
    check(&two, "a", SECOND, (Disconnected, Some(1), Some(7)));
    assert_eq!(two.connected(SECOND), BTreeSet::from([minion("b")]));
}

#[test]
fn a_lost_message_is_noticed_and_repaired() {
    let [mut one, mut two] = tables();
    one.attach(seat("a", 1));
    tell(&mut one, &mut two, SECOND);
    one.detach(&minion("a"), at(2));
    // Sent, and it never arrives: the sender does not know, so the next one is whole.
    one.poll_update(MasterId(2)).expect("a peer");
    one.handle_heard(MasterId(2), None);
    assert_eq!(tell(&mut one, &mut two, SECOND).lost, BTreeSet::from([minion("a")]));
    // Lost while the sender believes that it arrived: the receiver sees the gap.
    one.attach(seat("b", 3));
    one.poll_update(MasterId(2)).expect("a peer");
    one.handle_heard(MasterId(2), Some(Heard::Taken));
    assert_eq!(tell(&mut one, &mut two, SECOND).new, BTreeSet::from([minion("b")]));
}

#[test]
fn a_restarted_master_replaces_what_it_said_before() {
    let [mut one, mut two] = tables();
    one.attach(seat("a", 1));
    tell(&mut one, &mut two, SECOND);
    let mut again = Table::new(MasterId(1), 11);
    again.set_peers(&BTreeSet::from([MasterId(1), MasterId(2)]), Duration::ZERO);
    again.attach(seat("b", 9));
    let change = tell(&mut again, &mut two, 2 * SECOND);
    assert_eq!((change.new, change.lost), (BTreeSet::from([minion("b")]), BTreeSet::from([minion("a")])));
    // A receiver that restarted asks for everything, too.
    let mut fresh = Table::new(MasterId(2), 21);
    fresh.set_peers(&BTreeSet::from([MasterId(1), MasterId(2)]), Duration::ZERO);
    again.attach(seat("c", 10));
    tell(&mut again, &mut fresh, 3 * SECOND);
    assert_eq!(fresh.connected(3 * SECOND), BTreeSet::from([minion("b"), minion("c")]));
}

#[test]
fn a_silent_masters_minions_are_unknown_then_gone_unless_they_turn_up_elsewhere() {
    let [mut one, mut two] = tables();
    one.attach(seat("a", 1));
    one.attach(seat("b", 1));
    tell(&mut one, &mut two, SECOND);
    let silent = SECOND + SILENT_AFTER;
    check(&two, "a", silent, (Unknown, Some(1), Some(1)));
    check(&two, "stranger", silent, (Unknown, None, None));
    assert_eq!(two.coverage(silent), Coverage { heard: 1, all: 2 });
    assert!(two.attach(seat("b", 8)).is_empty(), "it moved, which is no arrival");
    check(&two, "b", silent, (Connected, Some(2), Some(8)));
    assert!(two.poll_lost(silent, at(9)).is_empty());
    let lost = SECOND + LOST_AFTER;
    assert_eq!(two.poll_lost(lost, at(31)).lost, BTreeSet::from([minion("a")]));
    check(&two, "a", lost, (Disconnected, Some(1), Some(31)));
    check(&two, "stranger", lost, (Disconnected, None, None));
    // It was only cut off: what it says next is a delta, which is refused, and then everything.
    assert_eq!(tell(&mut one, &mut two, lost).new, BTreeSet::from([minion("a")]));
}

#[test]
fn what_no_longer_counts_is_forgotten() {
    let [mut one, _] = tables();
    one.attach(seat("a", 1));
    one.detach(&minion("a"), at(2));
    check(&one, "a", LOST_AFTER, (Disconnected, Some(1), Some(2)));
    one.forget(|_| false);
    check(&one, "a", LOST_AFTER, (Disconnected, None, None));
    one.set_peers(&BTreeSet::from([MasterId(1)]), SECOND);
    assert_eq!(one.coverage(SECOND), Coverage { heard: 1, all: 1 });
    assert!(one.poll_update(MasterId(2)).is_none());
}

#[test]
fn what_changes_within_a_moment_is_one_change() {
    let set = |names: &[&str]| names.iter().map(|name| minion(name)).collect::<BTreeSet<_>>();
    let mut all = Change::default();
    for (new, lost) in [(vec!["a", "b"], vec![]), (vec!["c"], vec!["a", "d"]), (vec!["d"], vec!["c"])] {
        all.amend(Change { new: set(&new), lost: set(&lost) });
    }
    assert_eq!(all, Change { new: set(&["b"]), lost: set(&[]) }, "who left and came back did neither");
}
