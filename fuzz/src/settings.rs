//! What holds of the findings about any settings file of a network function.

/// Each finding is one line, starts with the place, and moves no cursor.
pub(crate) fn check(findings: &str) {
    assert!(!findings.is_empty(), "refused for nothing");
    for line in findings.split('\n') {
        assert!(line.starts_with("fuzz.toml:"), "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}
