//! Changes that are not written yet, over the instance they will be written to: later commands of one call see earlier ones.

use crate::chain::Trace;
use crate::error::StoreError;
use crate::kv::{Batch, Direction, Kv, Row, Span, Table, Visit};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Reading rows, whether they are written already or not.
pub(crate) trait Read {
    /// The value of `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `visit` with each row of `span`.
    fn visit(&self, table: Table, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError>;

    /// Up to `limit` rows of `span`.
    fn scan(&self, table: Table, span: &Span, direction: Direction, limit: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.visit(table, span, direction, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(rows)
    }
}

impl Read for Arc<dyn Kv> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.as_ref().get(table, key)
    }

    fn visit(&self, table: Table, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError> {
        self.as_ref().visit(table, span, direction, visit)
    }
}

/// The changes of one call of apply. What it becomes in the end depends only on the changes, not on their order in time.
pub(crate) struct Overlay {
    base: Arc<dyn Kv>,
    /// What the current entry has changed so far.
    pub(crate) trace: Trace,
    /// Per table: rows put, or `None` for rows deleted.
    rows: BTreeMap<Table, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    /// Ranges of the base that are gone. Rows put later stand in `rows`.
    cleared: Vec<(Table, Span)>,
}

impl Overlay {
    pub(crate) fn new(base: Arc<dyn Kv>) -> Self {
        Self { base, trace: Trace::default(), rows: BTreeMap::new(), cleared: Vec::new() }
    }

    pub(crate) fn put(&mut self, table: Table, key: Vec<u8>, value: impl Into<Vec<u8>>) {
        let value = value.into();
        self.trace.put(table, &key, &value);
        self.rows.entry(table).or_default().insert(key, Some(value));
    }

    pub(crate) fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.trace.delete(table, &key);
        self.rows.entry(table).or_default().insert(key, None);
    }

    pub(crate) fn delete_range(&mut self, table: Table, span: Span) {
        self.trace.clear(table, &span);
        self.rows.entry(table).or_default().retain(|key, _| !span.contains(key));
        self.cleared.push((table, span));
    }

    /// Everything as one batch: cleared ranges first, then rows in order.
    pub(crate) fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (table, span) in self.cleared {
            // Every range of ours is a prefix of a shard's keys and therefore has an end.
            if let Some(end) = span.end {
                batch.delete_range(table, span.start, end);
            }
        }
        for (table, rows) in self.rows {
            for (key, value) in rows {
                match value {
                    Some(value) => batch.put(table, key, value),
                    None => batch.delete(table, key),
                }
            }
        }
        batch
    }

    fn is_cleared(&self, table: Table, key: &[u8]) -> bool {
        self.cleared.iter().any(|(found, span)| *found == table && span.contains(key))
    }

    /// Our own rows of `span`, in `direction`.
    fn own(&self, table: Table, span: &Span, direction: Direction) -> Vec<(&[u8], Option<&[u8]>)> {
        let Some(rows) = self.rows.get(&table) else { return Vec::new() };
        let end = match &span.end {
            Some(end) if *end <= span.start => return Vec::new(),
            Some(end) => Bound::Excluded(end.as_slice()),
            None => Bound::Unbounded,
        };
        let rows = rows.range::<[u8], _>((Bound::Included(span.start.as_slice()), end));
        let rows = rows.map(|(key, value)| (key.as_slice(), value.as_deref()));
        match direction {
            Direction::Forward => rows.collect(),
            Direction::Backward => rows.rev().collect(),
        }
    }
}

impl Read for Overlay {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.rows.get(&table).and_then(|rows| rows.get(key)) {
            return Ok(value.clone());
        }
        if self.is_cleared(table, key) {
            return Ok(None);
        }
        self.base.get(table, key)
    }

    fn visit(&self, table: Table, span: &Span, direction: Direction, visit: Visit<'_>) -> Result<(), StoreError> {
        let mut own = self.own(table, span, direction).into_iter().peekable();
        let mut flow = ControlFlow::Continue(());
        self.base.visit(table, span, direction, &mut |key, value| {
            let comes_first = |mine: &[u8]| match direction {
                Direction::Forward => mine < key,
                Direction::Backward => mine > key,
            };
            while let Some((mine, change)) = own.next_if(|(mine, _)| comes_first(mine)) {
                if let Some(change) = change {
                    flow = visit(mine, change);
                    if flow.is_break() {
                        return flow;
                    }
                }
            }
            let replaced = own.next_if(|(mine, _)| *mine == key);
            flow = match replaced {
                Some((_, Some(change))) => visit(key, change),
                Some((_, None)) => ControlFlow::Continue(()),
                None if self.is_cleared(table, key) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            flow
        })?;
        if flow.is_break() {
            return Ok(());
        }
        for (mine, change) in own {
            if let Some(change) = change
                && visit(mine, change).is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Engine;
    use crate::kv::memory::MemoryEngine;
    use std::path::Path;

    fn keys(over: &Overlay, span: &Span, direction: Direction) -> Vec<u8> {
        let rows = over.scan(Table::Meta, span, direction, usize::MAX).expect("memory");
        rows.into_iter().map(|(key, _)| key[0]).collect()
    }

    #[test]
    fn reads_see_base_and_changes_as_one() {
        let kv = MemoryEngine::new().open_state(Path::new("state")).expect("opens");
        let mut batch = Batch::default();
        for key in [1u8, 3, 5, 7, 9] {
            batch.put(Table::Meta, [key], [key]);
        }
        kv.write(batch).expect("writes");
        let mut over = Overlay::new(kv.clone());
        over.put(Table::Meta, vec![4], [40]);
        over.put(Table::Meta, vec![5], [50]);
        over.delete(Table::Meta, vec![1]);
        over.put(Table::Meta, vec![8], [80]);
        over.delete_range(Table::Meta, Span::between([7], [9]));
        over.put(Table::Meta, vec![7], [70]);
        assert_eq!(keys(&over, &Span::all(), Direction::Forward), [3, 4, 5, 7, 9]);
        assert_eq!(keys(&over, &Span::all(), Direction::Backward), [9, 7, 5, 4, 3]);
        assert_eq!(keys(&over, &Span::between([4], [9]), Direction::Backward), [7, 5, 4]);
        assert_eq!(over.get(Table::Meta, &[7]).expect("memory"), Some(vec![70]));
        assert_eq!(over.get(Table::Meta, &[8]).expect("memory"), None);
        let expect = over.scan(Table::Meta, &Span::all(), Direction::Forward, usize::MAX).expect("memory");
        kv.write(over.into_batch()).expect("writes");
        assert_eq!(kv.scan(Table::Meta, &Span::all(), Direction::Forward, 99).expect("memory"), expect);
    }
}
