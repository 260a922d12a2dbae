//! Where findings are written down while a file is read.

use std::cell::RefCell;
use std::ops::Range;

use super::finding::Finding;

/// Characters of a value that a finding shows.
const SHOWN_CHARS_MAX: usize = 60;

/// The text of a file and what is wrong with it so far.
#[derive(Debug)]
pub(super) struct Book<'t> {
    file: &'t str,
    text: &'t str,
    findings: RefCell<Vec<Finding>>,
}

/// One value of the file: how to name it, where it stands, how it is spelt.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    pub(super) start: usize,
    pub(super) got: String,
}

impl<'t> Book<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text, findings: RefCell::default() }
    }

    pub(super) fn refuse(&self, place: Place, rule: impl Into<String>, nearest: Vec<String>) {
        let (line, column) = self.position(place.start);
        self.findings.borrow_mut().push(Finding {
            file: self.file.to_owned(),
            line,
            column,
            key: place.key,
            rule: rule.into(),
            got: place.got,
            nearest,
        });
    }

    /// The finding for a text that is not TOML.
    pub(super) fn refuse_syntax(&self, error: &toml_edit::TomlError) {
        let span = error.span().unwrap_or_default();
        let place = Place { key: "text".to_owned(), start: span.start, got: self.excerpt(&span) };
        self.refuse(place, format!("must be TOML ({})", printable(error.message())), Vec::new());
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner()
    }

    /// Line and column of a byte offset, both from 1; columns count characters.
    pub(super) fn position(&self, offset_bytes: usize) -> (usize, usize) {
        let mut end = offset_bytes.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The text of a range on one line, cut to a readable length.
    pub(super) fn excerpt(&self, span: &Range<usize>) -> String {
        match self.text.get(span.clone()) {
            None | Some("") if span.start >= self.text.len() => "end of file".to_owned(),
            None | Some("") => "end of line".to_owned(),
            Some(text) => shorten(&printable(text)),
        }
    }
}

/// Replaces what would move the cursor of a terminal by escapes.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let escaped = char.is_control().then(|| char.escape_default());
            let plain = (!char.is_control()).then_some(char);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_and_columns_from_one_and_in_characters() {
        let book = Book::new("a.toml", "ab\ncdé=f\n");
        assert_eq!(book.position(0), (1, 1));
        assert_eq!(book.position(3), (2, 1));
        assert_eq!(book.position(6), (2, 3), "inside a character counts as its start");
        assert_eq!(book.position(7), (2, 4));
        assert_eq!(book.position(99), (3, 1));
    }

    #[test]
    fn escapes_control_characters_and_cuts_long_values() {
        let text = format!("\u{1b}[2J{}", "x".repeat(80));
        let shown = Book::new("a.toml", &text).excerpt(&(0..text.len()));
        assert!(shown.starts_with("\\u{1b}[2Jxxx"), "{shown}");
        assert_eq!(shown.chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
