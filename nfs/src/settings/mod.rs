//! Settings files of network functions: TOML, unknown keys refused, every finding with file, line and column.

mod book;
mod finding;
mod prefix;
mod table;

use std::path::Path;

pub use finding::{Finding, Findings};
pub use prefix::Prefix;
pub(crate) use prefix::address_and_prefix;
pub use table::{Refusal, Table, name, number, text, word};

use book::Book;

/// Reads a settings file. `read` gets the root table, which has only `keys`, and returns `None` only after
/// something was refused.
///
/// # Errors
/// All findings.
pub fn load<T>(
    path: &Path,
    keys: &[&str],
    read: impl FnOnce(&Table<'_>) -> Option<T>,
) -> Result<T, Findings> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Findings::unreadable(&file, &error))?;
    parse(&file, &text, keys, read)
}

/// As [`load`], from a text; `file` names it in findings.
///
/// # Errors
/// All findings.
pub fn parse<T>(
    file: &str,
    text: &str,
    keys: &[&str],
    read: impl FnOnce(&Table<'_>) -> Option<T>,
) -> Result<T, Findings> {
    let book = Book::new(file, text);
    let value = match toml_edit::Document::parse(text) {
        Ok(document) => read(&Table::new(&book, document.as_table(), 0..0, String::new(), keys)),
        Err(error) => {
            book.refuse_syntax(&error);
            None
        }
    };
    match (value, book.into_findings()) {
        (Some(value), findings) if findings.is_empty() => Ok(value),
        (_, findings) => Err(Findings::sorted(findings)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> String {
        let read = |root: &Table<'_>| {
            root.optional("speed", number(1, 9));
            root.optional("colour", word(&[("red", 1), ("blue", 2)]));
            for thing in root.tables("thing", "name", &["name", "size"], 2) {
                thing.needed("name", name);
                thing.needed("size", number(1, 9));
            }
            Some(())
        };
        parse("s.toml", text, &["speed", "colour", "thing"], read).unwrap_err().to_string()
    }

    #[test]
    fn all_findings_come_at_once_in_file_order() {
        assert_eq!(
            findings("colour = \"green\"\nspeed = 10\n[[thing]]\nname = \"a\"\nsiez = 1\n"),
            "s.toml:1:10: colour must be \"red\" or \"blue\", got \"green\"\n\
             s.toml:2:9: speed must be a whole number from 1 to 9, got 10; nearest: 9\n\
             s.toml:3:1: thing[a].size must be a whole number from 1 to 9, got nothing\n\
             s.toml:5:1: thing[a].siez must be one of the keys name, size, got siez"
        );
    }

    #[test]
    fn a_list_that_is_too_long_or_no_list_is_refused() {
        let rule = "thing must be a list of at most 2 tables";
        assert!(findings("[[thing]]\n[[thing]]\n[[thing]]\n").contains(rule));
        assert!(findings("thing = 1\n").contains(rule));
    }

    #[test]
    fn a_text_that_is_not_toml_is_refused_where_it_breaks() {
        assert!(findings("speed = = 1\n").starts_with("s.toml:1:9: text must be TOML ("));
    }

    #[test]
    fn a_file_that_is_not_there_has_no_line() {
        let err = load(Path::new("/nonexistent/s.toml"), &[], |_| Some(())).unwrap_err().to_string();
        assert!(
            err.starts_with("/nonexistent/s.toml: must be a readable text file, got No such file"),
            "{err}"
        );
    }
}
