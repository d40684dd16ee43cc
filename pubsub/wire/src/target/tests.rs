//! Targets from end to end: what each kind matches, what each mistake is told, and that no text breaks the parser.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn target(kind: TargetKind, expression: &str) -> Target {
    Target { kind, expression: expression.into() }
}

fn grains() -> Map {
    serde_json::from_value(json!({"os": "Debian", "roles": ["web"], "dc": {"region": "eu"}})).expect("an object")
}

/// Which of four minions are meant; all have the same grains.
fn matched(kind: TargetKind, expression: &str) -> Vec<&'static str> {
    let matcher = target(kind, expression).matcher().unwrap_or_else(|error| panic!("{expression}: {error}"));
    let all = ["web-a", "web-b", "db-a", "db-b.example.org"];
    all.into_iter().filter(|id| matcher.matches(&MinionId::new(*id).expect("an id"), &grains())).collect()
}

fn refused(kind: TargetKind, expression: &str) -> String {
    match target(kind, expression).matcher() {
        Ok(matcher) => panic!("{expression:?} was taken as {matcher:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn each_kind_matches_as_in_salt() {
    use TargetKind::{Glob, Grain, List, Regex};
    let all = vec!["web-a", "web-b", "db-a", "db-b.example.org"];
    for (kind, expression, expect) in [
        (Glob, "*", all.clone()),
        (Glob, "web-?", vec!["web-a", "web-b"]),
        (Glob, "*-a", vec!["web-a", "db-a"]),
        (Glob, "nope*", vec![]),
        (Regex, "web", vec!["web-a", "web-b"]),
        (Regex, "eb", vec![]),
        (Regex, ".*-(a|b)$", vec!["web-a", "web-b", "db-a"]),
        (Regex, "(?x) db - # a comment)", vec!["db-a", "db-b.example.org"]),
        (List, "web-a,db-a", vec!["web-a", "db-a"]),
        (List, " web-a , db-a gone ", vec!["web-a", "db-a"]),
        (Grain, "os:deb*", all.clone()),
        (Grain, "dc:region:us", vec![]),
    ] {
        assert_eq!(matched(kind, expression), expect, "{expression}");
    }
}

#[test]
fn compound_words_bind_as_in_salt() {
    for (expression, expect) in [
        ("web-*", vec!["web-a", "web-b"]),
        ("web-a or db-a", vec!["web-a", "db-a"]),
        ("web-* and *-a", vec!["web-a"]),
        ("web-* and not *-a", vec!["web-b"]),
        ("web-* not *-a", vec!["web-b"]),
        ("not web-* and not *org", vec!["db-a"]),
        ("not not web-a", vec!["web-a"]),
        // `and` before `or`, `not` before both.
        ("web-a or db-* and *-a", vec!["web-a", "db-a"]),
        ("( web-a or db-* ) and *-a", vec!["web-a", "db-a"]),
        ("(web-b or db-*) and *-a", vec!["db-a"]),
        ("not ( web-a or web-b )", vec!["db-a", "db-b.example.org"]),
        ("not web-a or web-a", vec!["web-a", "web-b", "db-a", "db-b.example.org"]),
        ("G@os:Debian and E@web-(a|b)$", vec!["web-a", "web-b"]),
        ("(E@web-(a|b) and G@roles:web)", vec!["web-a", "web-b"]),
        ("L@web-a,db-a and not G@dc:region:us", vec!["web-a", "db-a"]),
        ("G@dc:region:us or web-b", vec!["web-b"]),
        ("((web-a))", vec!["web-a"]),
        ("  web-a\tor\n web-b ", vec!["web-a", "web-b"]),
    ] {
        assert_eq!(matched(TargetKind::Compound, expression), expect, "{expression}");
    }
}

#[test]
fn grains_are_asked_for_only_when_they_matter() {
    for (kind, expression, expect) in [
        (TargetKind::Glob, "*", false),
        (TargetKind::Grain, "os:*", true),
        (TargetKind::Compound, "web* and not ( db* or G@os:* )", true),
        (TargetKind::Compound, "web* and E@a or L@b", false),
    ] {
        assert_eq!(target(kind, expression).matcher().expect(expression).needs_grains(), expect, "{expression}");
    }
}

#[test]
fn a_list_gives_its_names() {
    let matcher = target(TargetKind::List, "b,a,b").matcher().expect("a list");
    assert_eq!(matcher.listed().map(Iterator::collect::<Vec<_>>), Some(vec!["a", "b"]));
    assert!(target(TargetKind::Glob, "a").matcher().expect("a glob").listed().is_none());
}

#[test]
fn mistakes_are_named_with_their_place_and_remedy() {
    use TargetKind::{Compound, Glob, Grain, List, Regex};
    for (kind, expression, parts) in [
        (Glob, "", &["empty", "'*'"][..]),
        (Compound, "   ", &["empty"]),
        (List, ", ,", &["empty"]),
        (List, "web-a,Web-B", &["position 7", "Web-B", "a-z"]),
        (Grain, "os", &["\"os\"", "position 1", "os:Debian"]),
        (Compound, "web* and G@os", &["\"os\"", "position 12", "GRAIN:GLOB"]),
        (Regex, "web(", &["position 1", "unclosed group"]),
        (Regex, "web(?!-a)", &["look-ahead", "not supported", "-C"]),
        (Regex, r"(a)\1", &["back-references", "not supported"]),
        (Regex, "(a{1000}){1000}", &["position 1", "size limit"]),
        (Compound, "web* and P@os:Deb.*", &["P@", "position 10", "not supported yet", "G@"]),
        (Compound, "I@role:web", &["I@", "pillar", "not supported yet"]),
        (Compound, "S@10.0.0.0/8", &["S@", "not supported yet"]),
        (Compound, "N@group1", &["N@", "node group", "not supported yet"]),
        (Compound, "J@role:web", &["J@", "not supported yet"]),
        (Compound, "R@%cluster", &["R@", "not supported yet"]),
        (Compound, "g@os:Debian", &["no matcher g@", "G@"]),
        (Compound, "web* and G@ os:Debian", &["\"G@\"", "position 10", "without a space"]),
        (Compound, "web* and", &["ends after \"and\"", "position 6", "glob"]),
        (Compound, "and web*", &["\"and\"", "position 1", "out of place"]),
        (Compound, "web* or or db*", &["\"or\"", "position 9"]),
        (Compound, "web* db*", &["\"db*\"", "position 6", "'and'"]),
        (Compound, "( web* or db*", &["position 1", "not closed"]),
        (Compound, "web* )", &["\")\"", "position 6"]),
        (Compound, "()", &["\")\"", "position 2"]),
        (Compound, "not", &["ends after \"not\""]),
    ] {
        let message = refused(kind, expression);
        for part in parts {
            assert!(message.contains(part), "{expression:?}: {message:?} does not say {part:?}");
        }
    }
}

#[test]
fn bounds_are_kept_to_the_byte() {
    let nested = |depth: usize| format!("{}web*{}", "( ".repeat(depth), " )".repeat(depth));
    assert!(target(TargetKind::Compound, &nested(TARGET_DEPTH_MAX)).matcher().is_ok());
    let deep = refused(TargetKind::Compound, &nested(TARGET_DEPTH_MAX + 1));
    assert!(deep.contains("position 65") && deep.contains("32"), "{deep}");

    let names = |count: usize| (0..count).map(|n| format!("minion{n:05}")).collect::<Vec<_>>().join(",");
    assert!(target(TargetKind::List, &names(5_000)).matcher().is_ok());
    assert!(refused(TargetKind::List, &names(6_000)).contains("65536"));

    assert!(target(TargetKind::Glob, &"a".repeat(TARGET_GLOB_BYTES_MAX)).matcher().is_ok());
    assert!(refused(TargetKind::Glob, &"a".repeat(TARGET_GLOB_BYTES_MAX + 1)).contains("-L"));
    assert!(target(TargetKind::Compound, &format!("{}a", "not ".repeat(10_000))).matcher().is_ok());
}

#[test]
fn the_names_on_the_wire_stay() {
    let written = serde_json::to_value(target(TargetKind::Compound, "a or b")).expect("serialises");
    assert_eq!(written, json!({"kind": "compound", "expression": "a or b"}));
    let read: Target = serde_json::from_value(json!({"expression": "*"})).expect("the kind has a default");
    assert_eq!(read, Target::glob("*"));
}

fn kinds() -> impl Strategy<Value = TargetKind> {
    prop_oneof![
        Just(TargetKind::Glob),
        Just(TargetKind::Regex),
        Just(TargetKind::List),
        Just(TargetKind::Grain),
        Just(TargetKind::Compound)
    ]
}

/// A well-formed compound and what it means for `web-a` with [`grains`].
fn expressions() -> impl Strategy<Value = (String, bool)> {
    let leaf = prop_oneof![
        Just(("web-*".to_owned(), true)),
        Just(("db-*".to_owned(), false)),
        Just(("G@os:debian".to_owned(), true)),
        Just(("E@eb".to_owned(), false)),
        Just(("L@web-a,x".to_owned(), true)),
    ];
    leaf.prop_recursive(5, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|(text, value)| (format!("not ( {text} )"), !value)),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| (format!("({} and {})", a.0, b.0), a.1 && b.1)),
            (inner.clone(), inner).prop_map(|(a, b)| (format!("( {} or {} )", a.0, b.0), a.1 || b.1)),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(kind in kinds(), text in any::<String>()) {
        if let Ok(matcher) = target(kind, &text).matcher() {
            matcher.matches(&MinionId::new("web-a").expect("an id"), &grains());
        }
    }

    #[test]
    fn no_heap_of_words_breaks_the_parser(
        text in "(not |and |or |\\( ?| ?\\)|G@os:[a-z*]{1,3} |E@w[.(|)]{0,3} |L@a,b |web\\* |\\[ |ä ){0,40}"
    ) {
        if let Ok(matcher) = target(TargetKind::Compound, &text).matcher() {
            matcher.matches(&MinionId::new("web-a").expect("an id"), &grains());
        }
    }

    #[test]
    fn a_compound_means_its_boolean_value((text, expect) in expressions()) {
        let matcher = target(TargetKind::Compound, &text).matcher().map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(matcher.matches(&MinionId::new("web-a").expect("an id"), &grains()), expect, "{}", text);
    }
}
