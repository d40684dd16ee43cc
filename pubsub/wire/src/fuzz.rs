//! What all fuzz targets share: one way to make inputs, one way to run, one line that says what was run. For tests only.
//!
//! ```text
//!   #[test]
//!   fn fuzz_thing() {
//!       saltern_wire::keep!("thing", "small", encode(&thing()));            a valid input for the corpus
//!       saltern_wire::fuzz!("thing", |bytes| decode::<Thing>(bytes).is_ok());   true means: accepted
//!   }
//! ```
//!
//! An input is what a random script makes of the corpus, the files in `CRATE/tests/corpus/<parser>/`: mostly one of them
//! with some bits flipped, bytes cut, inserted, doubled, lengths overwritten, or another one spliced in; sometimes rubbish.
//! The script comes from bolero, so `cargo bolero test fuzz_thing` guides it by coverage where a nightly toolchain is.
//!
//! - By default a target runs for less than a second. `SALTERN_FUZZ_EXECUTIONS=1000000` runs that many inputs and prints
//!   `fuzz thing: 1000000 executions, 52310 accepted`.
//! - `SALTERN_FUZZ_KEEP=1` writes what [`keep!`](crate::keep) is given to the corpus, which is then committed.
//! - Every file of a corpus is run as it is first, and has to be accepted; one whose name begins with `refused` is an input
//!   that once did harm, and only has to do none.
//!
//! **Invariants.** A target that panics fails, and its shrunk input is printed in hexadecimal. What a target does for one
//! input depends on nothing else, so that the same seed (`BOLERO_RANDOM_SEED`, printed) gives the same end.

pub use bolero;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

/// Executions of a short run, at most.
const EXECUTIONS_SHORT: usize = 20_000;

/// Time of a short run, at most. A suite has some dozens of targets.
const TIME_SHORT: Duration = Duration::from_millis(700);

/// Longest script, in bytes; also the longest rubbish.
pub const SCRIPT_BYTES_MAX: usize = 1024;

/// Longest input that comes of a mutation, in bytes: a few times the largest corpus file.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Lengths that parsers trip over.
const LENGTHS: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 35,
    1 << 40,
    1 << 62,
    u64::MAX,
];

/// Runs a fuzz target: `fuzz!("parser", |bytes: &[u8]| -> bool)`. See [the module](crate::fuzz).
#[macro_export]
macro_rules! fuzz {
    ($parser:literal, $target:expr) => {{
        let mut run =
            $crate::fuzz::Run::new($parser, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/", $parser), $target);
        let (executions, time) = $crate::fuzz::effort();
        $crate::fuzz::bolero::check!()
            .with_iterations(executions)
            .with_test_time(time)
            .with_max_len($crate::fuzz::SCRIPT_BYTES_MAX)
            .for_each(|script: &[u8]| run.execute(script));
        run.report();
    }};
}

/// Offers a valid input to the corpus: `keep!("parser", "name", bytes)`. See [the module](crate::fuzz).
#[macro_export]
macro_rules! keep {
    ($parser:literal, $name:expr, $bytes:expr) => {
        $crate::fuzz::keep_in(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/", $parser), $name, &$bytes)
    };
}

/// How many executions, and for how long at most.
#[must_use]
pub fn effort() -> (usize, Duration) {
    match std::env::var("SALTERN_FUZZ_EXECUTIONS") {
        Ok(wish) => {
            let executions = wish.parse();
            (executions.unwrap_or_else(|_| panic!("SALTERN_FUZZ_EXECUTIONS={wish} is no number")), Duration::MAX)
        }
        Err(_) => (EXECUTIONS_SHORT, TIME_SHORT),
    }
}

/// Writes `bytes` to the corpus in `folder` if it was asked for.
pub fn keep_in(folder: &str, name: &str, bytes: &[u8]) {
    if std::env::var_os("SALTERN_FUZZ_KEEP").is_some() {
        let write = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(Path::new(folder).join(name), bytes));
        write.unwrap_or_else(|error| panic!("{folder}/{name}: {error}"));
    }
}

/// One target at work.
pub struct Run<F> {
    parser: &'static str,
    corpus: Vec<Vec<u8>>,
    target: F,
    executions: u64,
    accepted: u64,
    /// The last input that failed: when the run ends by it, the smallest that was found.
    failed: Option<Vec<u8>>,
}

impl<F: FnMut(&[u8]) -> bool> Run<F> {
    /// Reads the corpus in `folder` and runs each file as it is.
    pub fn new(parser: &'static str, folder: &str, target: F) -> Self {
        let mut run = Self { parser, corpus: Vec::new(), target, executions: 0, accepted: 0, failed: None };
        let files = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let mut files: Vec<_> = files.flatten().map(|file| file.path()).collect();
        files.sort();
        for file in files {
            let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let accepted = run.try_one(&bytes);
            let refused = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("refused"));
            assert!(accepted || refused, "{} is refused: a corpus holds valid inputs", file.display());
            run.corpus.push(bytes);
        }
        assert!(!run.corpus.is_empty(), "{folder} holds no input; SALTERN_FUZZ_KEEP=1 makes the target write some");
        run
    }

    /// Runs the input that `script` makes.
    pub fn execute(&mut self, script: &[u8]) {
        let input = mutate(&self.corpus, script);
        self.try_one(&input);
    }

    /// Says what was run.
    pub fn report(self) {
        println!("fuzz {}: {} executions, {} accepted", self.parser, self.executions, self.accepted);
    }

    fn try_one(&mut self, input: &[u8]) -> bool {
        self.executions += 1;
        let target = &mut self.target;
        match catch_unwind(AssertUnwindSafe(|| target(input))) {
            Ok(accepted) => {
                self.accepted += u64::from(accepted);
                accepted
            }
            Err(panic) => {
                self.failed = Some(input.to_vec());
                resume_unwind(panic)
            }
        }
    }
}

// bolero asks for it; after a panic nothing of a run is used but `failed`.
impl<F> std::panic::UnwindSafe for Run<F> {}
impl<F> std::panic::RefUnwindSafe for Run<F> {}

impl<F> Drop for Run<F> {
    fn drop(&mut self) {
        if let Some(input) = &self.failed {
            eprintln!("fuzz {}: fails on {} bytes, {}", self.parser, input.len(), hex::encode(input));
        }
    }
}

/// Reads a script. A script that has ended says zero.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `end`, or 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        let wide = u32::from_le_bytes([self.byte(), self.byte(), self.byte(), 0]);
        usize::try_from(wide).unwrap_or(0) % end.max(1)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// What `script` makes of `corpus`. The empty script gives the first input as it is.
#[must_use]
pub fn mutate(corpus: &[Vec<u8>], script: &[u8]) -> Vec<u8> {
    let mut script = Script(script);
    let kind = script.byte();
    if kind >= 240 {
        return script.0.to_vec();
    }
    let at = script.below(corpus.len());
    let mut input = corpus.get(at).cloned().unwrap_or_default();
    // Mostly one or two changes: more of them seldom come further than the first check.
    let changes = [0, 1, 1, 1, 2, 2, 3, 6][usize::from(kind % 8)];
    for _ in 0..changes {
        change(&mut input, corpus, &mut script);
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

/// Makes one change.
fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], script: &mut Script<'_>) {
    let change = script.byte() % 10;
    let at = script.below(input.len() + 1);
    let len = script.below(16).min(input.len() - at);
    match change {
        0 | 1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << (script.byte() % 8);
            }
        }
        2 => {
            let value = [0, 1, 0x7f, 0x80, 0xff, b' ', script.byte(), script.byte()][script.below(8)];
            if let Some(byte) = input.get_mut(at) {
                *byte = value;
            }
        }
        3 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = byte.wrapping_add([1, 255][usize::from(script.byte() % 2)]);
            }
        }
        4 => drop(input.drain(at..at + len)),
        5 => input.truncate(at),
        6 => {
            let count = 1 + script.below(12);
            let new = script.bytes(count);
            input.splice(at..at, new);
        }
        7 => {
            // Something doubled, now and then so often that it is deep or long.
            let times = [1, 1, 2, 300][usize::from(script.byte() % 4)];
            let doubled = input[at..at + len].repeat(times);
            input.splice(at..at, doubled);
        }
        8 => {
            let other = corpus.get(script.below(corpus.len())).map_or(&[][..], Vec::as_slice);
            let from = script.below(other.len() + 1);
            let to = from + script.below(other.len() - from + 1);
            input.splice(at..at + len, other[from..to].iter().copied());
        }
        _ => {
            let value = LENGTHS[script.below(LENGTHS.len())].wrapping_add(u64::from(script.byte() % 3)).wrapping_sub(1);
            let width = [1, 2, 4, 8][usize::from(script.byte() % 4)];
            let big_endian = script.byte().is_multiple_of(2);
            let bytes = if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
            let bytes = if big_endian { &bytes[8 - width..] } else { &bytes[..width] };
            for (byte, new) in input.iter_mut().skip(at).zip(bytes) {
                *byte = *new;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_what_becomes_of_an_input() {
        let corpus = vec![b"abcdef".to_vec(), b"123".to_vec()];
        assert_eq!(mutate(&corpus, &[]), b"abcdef");
        assert_eq!(mutate(&corpus, &[0, 1]), b"123");
        assert_eq!(mutate(&corpus, &[255, 9, 8]), [9, 8]);
        let flipped = mutate(&corpus, &[1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1]);
        assert_eq!(flipped, [b'a', b'b', b'c' ^ 2, b'd', b'e', b'f']);
        let cut = mutate(&corpus, &[1, 0, 0, 0, 5, 2, 0, 0]);
        assert_eq!(cut, b"ab");
    }

    #[test]
    fn every_change_is_made_and_none_fails() {
        let corpus = vec![b"{\"a\": [1, 2, 3]}".to_vec(), vec![0; 40], Vec::new()];
        let mut seen = std::collections::BTreeSet::new();
        let mut state = 7_u32;
        for _ in 0..20_000 {
            let script: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state.to_be_bytes()[0]
                })
                .collect();
            seen.insert(mutate(&corpus, &script));
        }
        assert!(seen.len() > 5_000, "{} different inputs", seen.len());
    }

    #[test]
    fn a_harmful_input_fails_the_run_and_is_found() {
        let folder = std::env::temp_dir().join(format!("saltern-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("one"), b"good").expect("a file");
        let folder = folder.to_str().expect("a name");
        let mut run = Run::new("test", folder, |bytes: &[u8]| {
            assert_ne!(bytes.first(), Some(&b'G'), "harm");
            true
        });
        run.execute(&[0]);
        assert_eq!((run.executions, run.accepted), (2, 2));
        let harm = catch_unwind(AssertUnwindSafe(|| run.execute(&[255, b'G', 1])));
        assert!(harm.is_err());
        assert_eq!(run.failed.as_deref(), Some(b"G\x01".as_slice()));
        run.failed = None;
        let refused = catch_unwind(|| Run::new("test", folder, |_: &[u8]| false).report());
        assert!(refused.is_err(), "a corpus holds valid inputs");
        std::fs::remove_dir_all(folder).expect("it was there");
    }
}
