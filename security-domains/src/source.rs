//! The text of a configuration file: turns byte offsets into lines and columns.

use std::ops::Range;

/// Characters of a value that a finding shows.
const SHOWN_CHARS_MAX: usize = 60;

/// A file's text under the name that findings show.
pub(crate) struct Source<'t> {
    pub(crate) file: &'t str,
    text: &'t str,
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text }
    }

    /// Line and column of a byte offset, both from 1; columns count characters.
    pub(crate) fn position(&self, offset_bytes: usize) -> (usize, usize) {
        let mut end = offset_bytes.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[line_start..].chars().count() + 1)
    }

    /// The text of a range on one line: control characters escaped, cut to a readable length.
    pub(crate) fn excerpt(&self, span: &Range<usize>) -> String {
        let Some(text) = self.text.get(span.clone()) else {
            return String::from("unreadable text");
        };
        if text.is_empty() {
            let rest = &self.text[span.start..];
            return String::from(if rest.is_empty() { "end of file" } else { "end of line" });
        }
        shorten(&printable(text))
    }
}

/// Replaces what would move the cursor of a terminal by escapes.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_and_columns_from_one() {
        let source = Source::new("a.toml", "ab\ncdé=f\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(3), (2, 1));
        assert_eq!(source.position(7), (2, 4));
        assert_eq!(source.position(9), (2, 6));
        assert_eq!(source.position(10), (3, 1));
        assert_eq!(source.position(99), (3, 1));
    }

    #[test]
    fn an_offset_inside_a_character_counts_as_its_start() {
        assert_eq!(Source::new("a.toml", "é").position(1), (1, 1));
    }

    #[test]
    fn escapes_control_characters_and_cuts_long_values() {
        let long = format!("\u{1b}[2J{}", "x".repeat(80));
        let shown = Source::new("a.toml", &long).excerpt(&(0..long.len()));
        assert!(shown.starts_with("\\u{1b}[2Jxxx"), "{shown}");
        assert_eq!(shown.chars().count(), SHOWN_CHARS_MAX + 1);
    }
}
