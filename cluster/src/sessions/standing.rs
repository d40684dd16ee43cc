//! What the truth thinks of a key that a handshake has proved.

use saltern_wire::crypto::PublicKey;
use saltern_wire::key::{KeyRecord, KeyState};
use saltern_wire::session::Standing;

/// The standing of `key` among the records of the id it claims; `None` if the truth has never seen it there.
pub fn judge(records: &[KeyRecord], key: &PublicKey) -> Option<Standing> {
    let record = records.iter().find(|record| record.public_key == *key)?;
    Some(match (record.state, record.ordinal) {
        (KeyState::Accepted, Some(ordinal)) => Standing::Accepted { ordinal },
        // An accepted key has a number; one without is not obeyed.
        (KeyState::Accepted, None) | (KeyState::Pending, _) => Standing::Pending,
        (KeyState::Denied, _) => Standing::Denied,
        (KeyState::Rejected, _) => Standing::Rejected,
    })
}

/// Why a session with this standing ends, `None` if it may stay.
pub fn farewell(standing: Standing) -> Option<&'static str> {
    match standing {
        Standing::Pending | Standing::Accepted { .. } => None,
        Standing::Rejected => Some("the key is rejected: an operator may accept or delete it"),
        Standing::Denied => Some("the id belongs to another key: an operator may delete that one"),
        Standing::Deleted => Some("the key was deleted: enrol again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::{LogicalTime, MinionId, Ordinal};

    fn record(key: u8, state: KeyState, ordinal: Option<u32>) -> KeyRecord {
        KeyRecord {
            minion: MinionId::new("web-1").expect("an id"),
            public_key: PublicKey([key; 32]),
            state,
            ordinal: ordinal.map(Ordinal),
            submitted: LogicalTime::ZERO,
            decided: None,
            decided_by: None,
        }
    }

    #[test]
    fn a_key_stands_for_itself_not_for_its_id() {
        let records = [record(1, KeyState::Accepted, Some(7)), record(2, KeyState::Denied, None)];
        assert_eq!(judge(&records, &PublicKey([1; 32])), Some(Standing::Accepted { ordinal: Ordinal(7) }));
        assert_eq!(judge(&records, &PublicKey([2; 32])), Some(Standing::Denied));
        assert_eq!(judge(&records, &PublicKey([3; 32])), None);
        assert_eq!(judge(&[record(1, KeyState::Accepted, None)], &PublicKey([1; 32])), Some(Standing::Pending));
        assert_eq!(judge(&[record(1, KeyState::Rejected, Some(7))], &PublicKey([1; 32])), Some(Standing::Rejected));
    }
}
