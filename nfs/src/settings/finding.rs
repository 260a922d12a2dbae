//! What is wrong with a settings file, as its author sees it.

use std::fmt;

/// One broken rule at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, as the caller named it.
    pub file: String,
    /// Line from 1; 0 when the file cannot be read.
    pub line: usize,
    /// Column in characters from 1; 0 when the file cannot be read.
    pub column: usize,
    /// Where in the file: `rule[web].dport`.
    pub key: String,
    /// What is allowed.
    pub rule: String,
    /// What was found, as the file spells it.
    pub got: String,
    /// The nearest legal values; empty when there is none to name.
    pub nearest: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, key, rule, got, .. } = self;
        if *line == 0 {
            return write!(f, "{file}: {rule}, got {got}");
        }
        write!(f, "{file}:{line}:{column}: {key} {rule}, got {got}")?;
        if !self.nearest.is_empty() {
            write!(f, "; nearest: {}", self.nearest.join(" or "))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a file, in file order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// The caller has at least one.
    pub(super) fn sorted(mut list: Vec<Finding>) -> Self {
        list.sort_by(|a, b| (a.line, a.column, &a.key).cmp(&(b.line, b.column, &b.key)));
        Self(list)
    }

    /// The one finding about a file whose text did not arrive.
    pub(super) fn unreadable(file: &str, error: &std::io::Error) -> Self {
        Self(vec![Finding {
            file: file.to_owned(),
            line: 0,
            column: 0,
            key: String::new(),
            rule: "must be a readable text file".to_owned(),
            got: error.to_string(),
            nearest: Vec::new(),
        }])
    }

    /// The findings in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }
}

/// One finding a line, no newline at the end.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, finding) in self.0.iter().enumerate() {
            let newline = if position > 0 { "\n" } else { "" };
            write!(f, "{newline}{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}
