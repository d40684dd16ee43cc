//! Token buckets over monotonic time: how often somebody may do something.

use std::collections::BTreeMap;
use std::time::Duration;

/// One bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: u32,
    burst: u32,
    tokens: f64,
    last: Duration,
}

impl Bucket {
    /// A full bucket.
    pub fn new(per_second: u32, burst: u32, now: Duration) -> Self {
        Self { per_second, burst, tokens: f64::from(burst), last: now }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        self.take_many(1, now)
    }

    /// Takes so many tokens if they are all there.
    pub fn take_many(&mut self, count: u32, now: Duration) -> bool {
        self.fill(now);
        let there = self.tokens >= f64::from(count);
        if there {
            self.tokens -= f64::from(count);
        }
        there
    }

    /// Takes so many tokens whether they are there or not; answers how long it is until none is owed.
    pub fn spend(&mut self, count: u32, now: Duration) -> Duration {
        self.fill(now);
        self.tokens -= f64::from(count);
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(-self.tokens / f64::from(self.per_second.max(1)))
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.tokens = (self.tokens + passed * f64::from(self.per_second)).min(f64::from(self.burst));
    }

    fn is_full(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.tokens >= f64::from(self.burst)
    }
}

/// A bucket for each of many, as long as they do anything: a full bucket is the same as none.
#[derive(Debug)]
pub struct Buckets<K> {
    per_second: u32,
    burst: u32,
    held_max: usize,
    held: BTreeMap<K, Bucket>,
}

impl<K: Ord> Buckets<K> {
    /// At most `held_max` of them are remembered; when all of those are in use, nobody else gets a token.
    pub fn new(per_second: u32, burst: u32, held_max: usize) -> Self {
        Self { per_second, burst, held_max, held: BTreeMap::new() }
    }

    /// Takes a token of `whose` if there is one.
    pub fn take(&mut self, whose: K, now: Duration) -> bool {
        if let Some(bucket) = self.held.get_mut(&whose) {
            return bucket.take(now);
        }
        if self.held.len() >= self.held_max {
            self.held.retain(|_, bucket| !bucket.is_full(now));
            if self.held.len() >= self.held_max {
                return false;
            }
        }
        let mut bucket = Bucket::new(self.per_second, self.burst, now);
        let taken = bucket.take(now);
        self.held.insert(whose, bucket);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_fills_with_time_and_no_further_than_its_burst() {
        let mut bucket = Bucket::new(2, 3, Duration::ZERO);
        let mut taken = |now| (0..10).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(Duration::ZERO), 3);
        assert_eq!(taken(SECOND), 2);
        assert_eq!(taken(SECOND * 100), 3);
        assert_eq!(taken(SECOND * 50), 0, "time that goes back fills nothing");
    }

    #[test]
    fn what_is_owed_takes_its_time() {
        let mut bucket = Bucket::new(10, 5, Duration::ZERO);
        assert_eq!(bucket.spend(5, Duration::ZERO), Duration::ZERO);
        assert_eq!(bucket.spend(10, Duration::ZERO), SECOND);
        assert!(!bucket.take(SECOND / 2));
        assert_eq!(bucket.spend(1, SECOND), SECOND / 10);
        assert!(bucket.take_many(5, SECOND * 100));
        assert!(!bucket.take_many(6, SECOND * 200), "never more than the burst");
    }

    #[test]
    fn one_that_asks_too_often_takes_nothing_from_another() {
        let mut buckets = Buckets::new(1, 2, 100);
        assert_eq!((0..10).filter(|_| buckets.take("a", Duration::ZERO)).count(), 2);
        assert!(buckets.take("b", Duration::ZERO));
        assert!(buckets.take("a", SECOND));
    }

    #[test]
    fn strangers_without_number_cost_bounded_memory() {
        let mut buckets = Buckets::new(1, 2, 100);
        for number in 0..10_000 {
            buckets.take(number, Duration::ZERO);
        }
        assert_eq!(buckets.held.len(), 100);
        assert!(!buckets.take(99_999, Duration::ZERO));
        assert!(buckets.take(99_999, SECOND * 2), "those who were silent are forgotten");
    }
}
