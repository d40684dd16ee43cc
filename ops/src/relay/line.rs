//! When a piece of a stream arrives. Pure: time and randomness are arguments or seeds.

use std::time::Duration;

/// How much later than the distance says a piece may arrive, and the seed of the draw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Jitter {
    /// The most that is added to the way of a piece; each gets a share drawn evenly.
    pub most: Duration,
    /// The same seed draws the same shares.
    pub seed: u64,
}

impl Jitter {
    /// The same jitter with a seed that `salt` makes another one.
    pub fn seeded(self, salt: u64) -> Self {
        Self { seed: self.seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15), ..self }
    }
}

/// One direction of one connection.
///
/// **Invariant:** what it answers never goes back: a piece arrives with or after the one before it, however the distance
/// changes and whatever is drawn.
#[derive(Debug)]
pub struct Line {
    jitter: Jitter,
    drawn: u64,
    last: Duration,
}

impl Line {
    /// Nothing was sent yet.
    pub fn new(jitter: Jitter) -> Self {
        Self { jitter, drawn: jitter.seed, last: Duration::ZERO }
    }

    /// When a piece that is sent at `now` over a way of `one_way` arrives; both monotonic.
    pub fn due(&mut self, now: Duration, one_way: Duration) -> Duration {
        let extra = self.draw();
        self.last = self.last.max(now + one_way + extra);
        self.last
    }

    fn draw(&mut self) -> Duration {
        if self.jitter.most.is_zero() {
            return Duration::ZERO;
        }
        let most = u64::try_from(self.jitter.most.as_nanos()).unwrap_or(u64::MAX);
        self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let share = u128::from(mix(self.drawn)) * u128::from(most) >> 64;
        Duration::from_nanos(u64::try_from(share).unwrap_or(most))
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn mix(state: u64) -> u64 {
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_piece_arrives_after_its_way_and_never_before_the_one_before_it() {
        let mut line = Line::new(Jitter::default());
        assert_eq!(line.due(ms(10), ms(50)), ms(60));
        assert_eq!(line.due(ms(11), ms(50)), ms(61));
        assert_eq!(line.due(ms(12), ms(5)), ms(61), "the way became shorter, the order stays");
        assert_eq!(line.due(ms(80), ms(5)), ms(85));
    }

    #[test]
    fn jitter_is_bounded_and_the_same_seed_draws_the_same() {
        let jitter = Jitter { most: ms(20), seed: 7 };
        let run = |jitter| {
            let mut line = Line::new(jitter);
            (0..1000).map(|step| line.due(ms(step * 100), ms(50)) - ms(step * 100)).collect::<Vec<_>>()
        };
        let ways = run(jitter);
        assert!(ways.iter().all(|way| (ms(50)..=ms(70)).contains(way)));
        let (shortest, longest) = (ways.iter().min(), ways.iter().max());
        assert!(shortest < Some(&ms(52)) && longest > Some(&ms(68)), "drawn evenly: {shortest:?} to {longest:?}");
        assert_eq!(run(jitter), ways);
        assert_ne!(run(jitter.seeded(1)), ways);
    }
}
