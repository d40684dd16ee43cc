//! The repository as the checks see it: text files, and Rust without its comments and texts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// One text file.
#[derive(Debug, Clone)]
pub struct File {
    /// From the root of the repository, with slashes.
    pub path: String,
    /// What it holds.
    pub text: String,
    /// Whether somebody may run it.
    pub executable: bool,
}

impl File {
    /// A file that exists nowhere: what the checks are tried on.
    pub fn made_up(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into(), executable: false }
    }

    /// Whether it is a Rust source.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their numbers, from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }
}

/// Dotfolders that belong to the repository; any other is some tool's own.
const DOTFOLDERS: [&str; 3] = [".cargo", ".ci", ".config"];

/// Every text file of the repository, sorted by path. Build results and tools' own folders are left out, and so is what is
/// not UTF-8: recorded bytes are not prose.
pub fn repository() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("ops/ lies in the repository");
    let mut files = Vec::new();
    collect(root, root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The folders at the top, without dotfiles and what version control ignores.
pub fn top_folders() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("ops/ lies in the repository");
    let entries =
        std::fs::read_dir(root).expect("the root can be listed").map(|entry| entry.expect("the root can be listed"));
    let folders =
        entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().into_owned());
    folders.filter(|name| !name.starts_with('.') && name != "target").collect()
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).expect("a folder can be listed") {
        let entry = entry.expect("a folder can be listed");
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().expect("a file has a type");
        let name = name.to_string_lossy();
        let own = name != "target" && (!name.starts_with('.') || DOTFOLDERS.contains(&&*name));
        if kind.is_dir() && own {
            collect(root, &path, files);
        } else if kind.is_file() {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let executable = entry.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0);
            let path = path.strip_prefix(root).expect("it lies below the root").to_string_lossy().into_owned();
            files.push(File { path, text, executable });
        }
    }
}

/// Rust with comments and the insides of texts blanked, so that what is left is code. Line breaks stay where they are.
pub fn code(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let len = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => until(&chars, at, |chars, at| chars[at] == '\n'),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment(&chars, at),
            '"' => quoted(&chars, at),
            'r' if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => raw(&chars, at).unwrap_or(0),
            '\'' => character(&chars, at).unwrap_or(0),
            _ => 0,
        };
        if len == 0 {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..at + len].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at += len;
        }
    }
    out
}

/// Whether `c` may stand in a name.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands in `line`, not as a part of a longer name.
pub fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn until(chars: &[char], from: usize, end: impl Fn(&[char], usize) -> bool) -> usize {
    (from..chars.len()).find(|at| end(chars, *at)).unwrap_or(chars.len()) - from
}

fn block_comment(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at - from;
        }
    }
    chars.len() - from
}

fn quoted(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len()) - from
}

/// `r"…"`, `r#"…"#`: `None` if no raw text begins here.
fn raw(chars: &[char], from: usize) -> Option<usize> {
    let hashes = until(chars, from + 1, |chars, at| chars[at] != '#');
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return None;
    }
    let body = from + 2 + hashes;
    let closed = |chars: &[char], at: usize| {
        chars[at] == '"' && chars.len() > at + hashes && chars[at + 1..=at + hashes].iter().all(|c| *c == '#')
    };
    Some((body + until(chars, body, closed) + 1 + hashes).min(chars.len()) - from)
}

/// `'x'`, `'\n'`: `None` for a lifetime.
fn character(chars: &[char], from: usize) -> Option<usize> {
    match (chars.get(from + 1)?, chars.get(from + 2)) {
        ('\\', _) => {
            Some(until(chars, from + 3, |chars, at| chars[at] == '\'') + 4).filter(|len| from + len <= chars.len())
        }
        (_, Some('\'')) => Some(3),
        _ => None,
    }
}
