//! Whatever the text, the reader answers with a configuration or with findings that point into the text.

use proptest::prelude::*;

const EXAMPLES: [&str; 4] = [
    include_str!("../examples/demo.toml"),
    include_str!("../examples/process-forwarder.toml"),
    include_str!("../examples/two-tenants.toml"),
    include_str!("../examples/edges.toml"),
];

/// Pieces that are likely to break something where they land.
const PIECES: [&str; 24] = [
    "",
    "\"",
    "'",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "\r\n",
    "\0",
    "\u{1b}",
    "é",
    "-1",
    "9223372036854775807",
    "1e9",
    "true",
    "\"blue\"",
    "[[vm.endpoint]]\n",
    "name = \"x\"\n",
];

fn check(text: &str) {
    let lines = text.split('\n').count();
    if let Err(findings) = security_domains::parse(text, "mutated.toml") {
        assert!(findings.len() > 0);
        for finding in &findings {
            assert!((1..=lines).contains(&finding.line), "{finding}");
            assert!(finding.column >= 1, "{finding}");
            assert!(!finding.to_string().contains(char::is_control), "{finding:?}");
        }
    }
}

/// Nearest character boundary at or below a share of the text.
fn boundary(text: &str, at: prop::sample::Index) -> usize {
    let mut offset = at.index(text.len() + 1);
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn mutation() -> impl Strategy<Value = (prop::sample::Index, usize, usize)> {
    (any::<prop::sample::Index>(), 0..40_usize, 0..PIECES.len())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn mutated_examples_never_panic(example in 0..4_usize, mutations in prop::collection::vec(mutation(), 1..6)) {
        let mut text = EXAMPLES[example].to_owned();
        for (at, removed, piece) in mutations {
            let start = boundary(&text, at);
            let mut end = (start + removed).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.replace_range(start..end.max(start), PIECES[piece]);
        }
        check(&text);
    }

    #[test]
    fn moved_lines_never_panic(example in 0..4_usize, swaps in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..8)) {
        let mut lines: Vec<&str> = EXAMPLES[example].lines().collect();
        for (from, to) in swaps {
            let (from, to) = (from.index(lines.len()), to.index(lines.len()));
            lines.swap(from, to);
        }
        check(&lines.join("\n"));
    }

    #[test]
    fn any_text_never_panics(text in any::<String>()) {
        check(&text);
    }
}

#[test]
fn every_prefix_of_an_example_is_answered() {
    for example in EXAMPLES {
        for (end, _) in example.char_indices() {
            check(&example[..end]);
        }
    }
}
