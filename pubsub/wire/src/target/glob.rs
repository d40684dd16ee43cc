//! Globs with the meaning of Python's `fnmatch.fnmatchcase`, which is what Salt's operators have in their fingers.
//!
//! `*` any text, `?` one character, `[seq]` one of, `[!seq]` none of; a `[` that is never closed stands for itself, a
//! backslash has no special meaning, and nothing is special about dots or slashes. Matching is iterative: one star is
//! remembered at a time, so the cost is at most the text's length times the pattern's.

/// A parsed glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Any text, also none.
    Star,
    /// Any one character.
    One,
    /// This character.
    Char(char),
    /// One character inside (or, negated, outside) these inclusive ranges.
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Star => false,
            Self::One => true,
            Self::Char(own) => *own == c,
            Self::Set { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

impl Glob {
    /// Parses `pattern`; every text is a glob.
    pub fn new(pattern: &str) -> Self {
        let chars: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::with_capacity(chars.len());
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            at += 1;
            match c {
                '*' if tokens.last() == Some(&Token::Star) => {}
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::One),
                '[' => match set(&chars[at..]) {
                    Some((token, length)) => {
                        tokens.push(token);
                        at += length;
                    }
                    None => tokens.push(Token::Char('[')),
                },
                other => tokens.push(Token::Char(other)),
            }
        }
        Self(tokens)
    }

    /// Whether the whole of `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        let mut token = 0;
        let mut rest = text.chars();
        let mut star: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            match self.0.get(token) {
                Some(Token::Star) => {
                    token += 1;
                    if token == self.0.len() {
                        return true;
                    }
                    star = Some((token, rest.clone()));
                    continue;
                }
                Some(one) => {
                    let mut ahead = rest.clone();
                    if ahead.next().is_some_and(|c| one.takes(c)) {
                        rest = ahead;
                        token += 1;
                        continue;
                    }
                }
                None if rest.as_str().is_empty() => return true,
                None => {}
            }
            // It did not fit: let the last star take one character more.
            let Some((after_star, from)) = &mut star else { return false };
            if from.next().is_none() {
                return false;
            }
            token = *after_star;
            rest = from.clone();
        }
    }
}

/// Reads a set from behind its `[`; how many characters it took with its `]`. `None` if it is never closed.
fn set(chars: &[char]) -> Option<(Token, usize)> {
    let negated = chars.first() == Some(&'!');
    let start = usize::from(negated);
    // A `]` right at the start is a member, as in every shell.
    let search = if chars.get(start) == Some(&']') { start + 1 } else { start };
    let end = search + chars.get(search..)?.iter().position(|c| *c == ']')?;
    let members = &chars[start..end];
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(&low) = members.get(at) {
        match (members.get(at + 1), members.get(at + 2)) {
            (Some('-'), Some(&high)) => {
                // An upside-down range holds nothing.
                if low <= high {
                    ranges.push((low, high));
                }
                at += 3;
            }
            _ => {
                ranges.push((low, low));
                at += 1;
            }
        }
    }
    Some((Token::Set { negated, ranges }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_mean_what_they_mean_in_python() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("*", "web-a", true),
            ("web-?", "web-a", true),
            ("web-?", "web-", false),
            ("web-[ab]", "web-b", true),
            ("web-[!ab]", "web-b", false),
            ("web-[!ab]", "web-c", true),
            ("web[0-9]*", "web12", true),
            ("web[0-9]*", "weba", false),
            ("[]]", "]", true),
            ("[!]]", "]", false),
            ("[!]]", "a", true),
            ("[", "[", true),
            ("[!", "[!", true),
            ("[abc", "[abc", true),
            ("[a-]", "-", true),
            ("[-a]", "-", true),
            ("[z-a]", "m", false),
            ("[!z-a]", "m", true),
            (r"a\*", r"a\b", true),
            ("*.example.org", "web.example.org", true),
            ("*a*b*c", "xaxbxbxc", true),
            ("*a*b*c", "xaxbxbx", false),
            ("a**b", "ab", true),
            ("web", "web-a", false),
            ("?", "ä", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), expect, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!Glob::new(&pattern).matches(&"a".repeat(100_000)));
    }
}
