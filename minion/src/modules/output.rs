//! A bounded record of what a command wrote: its beginning and its end, and how much was cut between.

use std::collections::VecDeque;

/// Keeps the first and the last half of `limit` bytes. Feeding it never fails and never grows it.
#[derive(Debug)]
pub(crate) struct Output {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    cut: u64,
    limit: usize,
}

impl Output {
    /// An empty record that keeps `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { half: limit / 2, head: Vec::new(), tail: VecDeque::new(), cut: 0, limit }
    }

    /// Takes in what was written next.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        // Of a large piece only the last half can stay.
        let skip = rest.len().saturating_sub(self.half);
        self.cut += skip as u64;
        let rest = &rest[skip..];
        let over = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.cut += over as u64;
        self.tail.drain(..over);
        self.tail.extend(rest);
    }

    /// The text, without its last line break, as Salt returns it. Bytes that are no UTF-8 become replacement characters.
    pub(crate) fn into_text(self) -> String {
        let tail: Vec<u8> = self.tail.into();
        let mut text = if self.cut == 0 {
            let mut bytes = self.head;
            bytes.extend_from_slice(&tail);
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            format!(
                "{}\n[… {} bytes were cut here: output_bytes_max is {} …]\n{}",
                String::from_utf8_lossy(&self.head),
                self.cut,
                self.limit,
                String::from_utf8_lossy(&tail)
            )
        };
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_whole() {
        let mut output = Output::new(10);
        for piece in ["abc", "defg", "hi\n"] {
            output.feed(piece.as_bytes());
        }
        assert_eq!(output.into_text(), "abcdefghi");
    }

    #[test]
    fn what_is_cut_is_counted() {
        for piece in [1, 3, 7, 1000] {
            let all: Vec<u8> = (0..1000).map(|at| b'a' + (at % 26) as u8).collect();
            let mut output = Output::new(100);
            all.chunks(piece).for_each(|chunk| output.feed(chunk));
            let text = output.into_text();
            assert!(text.contains("900 bytes were cut") && text.contains("100"), "{text}");
            assert!(text.starts_with(&String::from_utf8_lossy(&all[..50]).into_owned()));
            assert!(text.ends_with(&String::from_utf8_lossy(&all[950..]).into_owned()));
        }
    }
}
