//! Percent-encoding of what goes into a request target (RFC 3986, section 2).

/// `text` as one segment of a path, or one name or value of a query.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// `name=value&…`.
pub fn query(parameters: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{}={}", segment(name), segment(value));
    parameters.iter().map(pair).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(
            query(&[("target", "web* and G@os:é"), ("kind", "compound")]),
            "target=web%2A%20and%20G%40os%3A%C3%A9&kind=compound"
        );
        assert_eq!(segment("../a?b#c"), "..%2Fa%3Fb%23c");
    }
}
