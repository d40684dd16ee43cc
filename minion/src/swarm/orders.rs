//! What a swarm is told while it runs: one order a line.
//!
//! ```text
//!   stop [HOW-MANY]      ends the sessions of so many minions, which stay away
//!   start                starts those that are away, all at once
//!   restart [HOW-MANY]   ends and starts them again: new sessions, the same keys and journals
//!   cut [HOW-MANY]       cuts their connections; they come back by themselves
//!   freeze [HOW-MANY]    they stand still: connections stay open, nothing is read or said
//!   thaw                 those go on
//!   mark NAME            how many minions ran `test.echo mark:NAME`, and when the first and the last did
//!   figures              the figures of now
//!   quit                 stops everything
//! ```
//!
//! HOW-MANY is a number, a share such as `30%`, or `all`, which is meant where it is left out.

use std::fmt;

/// The most letters of a mark.
pub const MARK_LETTERS_MAX: usize = 64;

/// How many minions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HowMany {
    /// Every one.
    All,
    /// So many.
    Count(usize),
    /// So many of a hundred.
    Percent(usize),
}

impl HowMany {
    /// The number that it means of `count`.
    pub fn of(self, count: usize) -> usize {
        match self {
            Self::All => count,
            Self::Count(wanted) => wanted.min(count),
            Self::Percent(percent) => count * percent.min(100) / 100,
        }
    }
}

impl fmt::Display for HowMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// One order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Sessions end, and their minions stay away.
    Stop(HowMany),
    /// Whoever is away comes back.
    Start,
    /// Away and back.
    Restart(HowMany),
    /// Connections end by a fault.
    Cut(HowMany),
    /// Stand still.
    Freeze(HowMany),
    /// Go on.
    Thaw,
    /// Who ran a marked call.
    Mark(String),
    /// Figures of now.
    Figures,
    /// The end.
    Quit,
}

/// Why a line is no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// There is no such order.
    #[error("{0:?} is no order: stop, start, restart, cut, freeze, thaw, mark, figures or quit")]
    Unknown(String),
    /// That is not how many.
    #[error("{0:?} is not how many: give a number, a share such as 30%, or all")]
    HowMany(String),
    /// A mark has a name.
    #[error("a mark has a name of 1 to {MARK_LETTERS_MAX} letters")]
    Mark,
    /// There is more on the line than the order takes.
    #[error("{0:?} is more than this order takes")]
    More(String),
}

impl Order {
    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self, OrderError> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let argument = words.next();
        if let Some(more) = words.next() {
            return Err(OrderError::More(more.into()));
        }
        let none = |order| argument.map_or(Ok(order), |more| Err(OrderError::More(more.into())));
        match name {
            "stop" => how_many(argument).map(Self::Stop),
            "start" => none(Self::Start),
            "restart" => how_many(argument).map(Self::Restart),
            "cut" => how_many(argument).map(Self::Cut),
            "freeze" => how_many(argument).map(Self::Freeze),
            "thaw" => none(Self::Thaw),
            "figures" => none(Self::Figures),
            "quit" => none(Self::Quit),
            "mark" => {
                let name = argument.filter(|name| name.len() <= MARK_LETTERS_MAX);
                name.map(|name| Self::Mark(name.into())).ok_or(OrderError::Mark)
            }
            other => Err(OrderError::Unknown(other.into())),
        }
    }

    /// The part of worker `number` of `workers`, which share `minions` evenly.
    pub fn share(&self, number: usize, workers: usize, minions: usize) -> Self {
        let part = |how_many: &HowMany| {
            let count = how_many.of(minions);
            let until = |worker: usize| count * worker / workers.max(1);
            HowMany::Count(until(number + 1) - until(number))
        };
        match self {
            Self::Stop(count) => Self::Stop(part(count)),
            Self::Restart(count) => Self::Restart(part(count)),
            Self::Cut(count) => Self::Cut(part(count)),
            Self::Freeze(count) => Self::Freeze(part(count)),
            Self::Start | Self::Thaw | Self::Mark(_) | Self::Figures | Self::Quit => self.clone(),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop(count) => write!(f, "stop {count}"),
            Self::Start => f.write_str("start"),
            Self::Restart(count) => write!(f, "restart {count}"),
            Self::Cut(count) => write!(f, "cut {count}"),
            Self::Freeze(count) => write!(f, "freeze {count}"),
            Self::Thaw => f.write_str("thaw"),
            Self::Mark(name) => write!(f, "mark {name}"),
            Self::Figures => f.write_str("figures"),
            Self::Quit => f.write_str("quit"),
        }
    }
}

fn how_many(text: Option<&str>) -> Result<HowMany, OrderError> {
    let Some(text) = text.filter(|text| *text != "all") else { return Ok(HowMany::All) };
    let wrong = || OrderError::HowMany(text.into());
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(HowMany::Percent).ok_or_else(wrong),
        None => text.parse().map(HowMany::Count).map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_orders() {
        for (line, expect) in [
            ("stop", Order::Stop(HowMany::All)),
            (" freeze 20 ", Order::Freeze(HowMany::Count(20))),
            ("cut 30%", Order::Cut(HowMany::Percent(30))),
            ("restart all", Order::Restart(HowMany::All)),
            ("mark a1", Order::Mark("a1".into())),
        ] {
            let order = Order::parse(line).expect(line);
            assert_eq!(order, expect);
            assert_eq!(Order::parse(&order.to_string()), Ok(order), "written and read again");
        }
        for (line, expect) in [
            ("", "\"\" is no order"),
            ("melt", "\"melt\" is no order"),
            ("stop many", "\"many\" is not how many"),
            ("stop 101%", "\"101%\" is not how many"),
            ("thaw 3", "\"3\" is more than this order takes"),
            ("mark", "a mark has a name"),
        ] {
            let error = Order::parse(line).expect_err(line).to_string();
            assert!(error.starts_with(expect), "{error}");
        }
    }

    #[test]
    fn workers_share_an_order() {
        for (how_many, minions, expect) in [
            (HowMany::All, 10, 10),
            (HowMany::Count(7), 10, 7),
            (HowMany::Count(99), 10, 10),
            (HowMany::Percent(50), 9, 4),
        ] {
            let shares = (0..3).map(|number| match Order::Freeze(how_many).share(number, 3, minions) {
                Order::Freeze(HowMany::Count(count)) => count,
                other => panic!("{other}"),
            });
            assert_eq!(shares.sum::<usize>(), expect, "{how_many} of {minions}");
        }
    }
}
