//! What is wrong with a configuration file, as the operator sees it.

use std::fmt;

use serde::Serialize;

/// Which sort of rule a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The file cannot be read; there is no position.
    Unreadable,
    /// The text is not TOML.
    Syntax,
    /// A key that the table does not have.
    UnknownKey,
    /// A value of the wrong type or outside its limits.
    Value,
    /// A name that is taken, or one that names nothing.
    Name,
    /// Values that are legal one by one and not together.
    Conflict,
}

/// One broken rule at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, as the caller named it.
    pub file: String,
    /// Line from 1; 0 when the file cannot be read.
    pub line: usize,
    /// Column in characters from 1; 0 when the file cannot be read.
    pub column: usize,
    /// Where in the document: `domain[blue].region_mib`.
    pub key: String,
    /// What is allowed.
    pub rule: String,
    /// What was found, as the file spells it.
    pub got: String,
    /// The nearest legal values; empty when there is none to name.
    pub nearest: Vec<String>,
    /// Which sort of rule it is.
    pub kind: Kind,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == Kind::Unreadable {
            return write!(f, "{}: {}, got {}", self.file, self.rule, self.got);
        }
        let Self { file, line, column, key, rule, got, .. } = self;
        write!(f, "{file}:{line}:{column}: {key} {rule}, got {got}")?;
        if !self.nearest.is_empty() {
            write!(f, "; nearest: {}", self.nearest.join(" or "))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a file, in file order; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    /// Sorts by position. The caller has at least one finding.
    pub(crate) fn sorted(mut list: Vec<Finding>) -> Self {
        list.sort_by(|a, b| (a.line, a.column, &a.key, &a.rule).cmp(&(b.line, b.column, &b.key, &b.rule)));
        Self { list }
    }

    /// The one finding about a file whose bytes did not arrive.
    pub(crate) fn unreadable(file: &str, error: &std::io::Error) -> Self {
        let finding = Finding {
            file: file.to_owned(),
            line: 0,
            column: 0,
            key: String::from("file"),
            rule: String::from("cannot read the configuration"),
            got: error.to_string(),
            nearest: Vec::new(),
            kind: Kind::Unreadable,
        };
        Self { list: vec![finding] }
    }

    /// Whether the file could not be read at all, so that nothing is known of its content.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.list.iter().any(|finding| finding.kind == Kind::Unreadable)
    }

    /// The findings in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.list.iter()
    }

    /// How many there are; at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "findings are never empty")]
    pub fn len(&self) -> usize {
        self.list.len()
    }
}

impl<'f> IntoIterator for &'f Findings {
    type Item = &'f Finding;
    type IntoIter = std::slice::Iter<'f, Finding>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One finding a line, no newline at the end.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, finding) in self.list.iter().enumerate() {
            if position > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}
