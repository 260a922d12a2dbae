//! Where findings are written down while a document is read.

use std::cell::RefCell;
use std::ops::Range;

use crate::finding::{Finding, Kind};
use crate::source::{Source, printable};

/// Where findings are written down while a document is read.
pub(crate) struct Book<'t> {
    source: Source<'t>,
    findings: RefCell<Vec<Finding>>,
}

/// One value of the document: how to name it, where it stands, how it is spelt.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: String,
    pub(crate) span: Range<usize>,
    pub(crate) got: String,
}

impl<'t> Book<'t> {
    pub(crate) fn new(source: Source<'t>) -> Self {
        Self { source, findings: RefCell::new(Vec::new()) }
    }

    pub(crate) fn refuse(&self, place: &Place, kind: Kind, rule: impl Into<String>, nearest: Vec<String>) {
        let (line, column) = self.source.position(place.span.start);
        self.findings.borrow_mut().push(Finding {
            file: self.source.file.to_owned(),
            line,
            column,
            key: place.path.clone(),
            rule: rule.into(),
            got: place.got.clone(),
            nearest,
            kind,
        });
    }

    /// A range of the text as a finding shows it.
    pub(crate) fn excerpt(&self, span: &Range<usize>) -> String {
        self.source.excerpt(span)
    }

    /// The line on which a value stands.
    pub(crate) fn line(&self, place: &Place) -> usize {
        self.source.position(place.span.start).0
    }

    /// The finding for bytes that are not text; the book is about the text before `byte`.
    pub(crate) fn refuse_encoding(&self, byte: u8) {
        let place = Place {
            path: String::from("text"),
            span: usize::MAX..usize::MAX,
            got: format!("byte {byte:#04x}"),
        };
        self.refuse(&place, Kind::Syntax, "must be UTF-8", Vec::new());
    }

    /// The finding for a text that is not TOML.
    pub(crate) fn refuse_syntax(&self, error: &toml_edit::TomlError) {
        let span = error.span().unwrap_or_default();
        let got = self.source.excerpt(&span);
        let place = Place { path: String::from("text"), span, got };
        let rule = format!("must be TOML ({})", printable(error.message()));
        self.refuse(&place, Kind::Syntax, rule, Vec::new());
    }

    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner()
    }
}
