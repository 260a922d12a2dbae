//! The description of a table: which keys it has, in which form, with which default.

use crate::form::Form;

/// What a missing key means.
#[derive(Clone, Copy, Debug)]
pub enum Presence {
    /// A finding.
    Needed,
    /// Nothing is said.
    Optional,
    /// This number.
    Number(u32),
    /// This word.
    Word(&'static str),
    /// This truth value.
    Flag(bool),
    /// An empty list or table.
    Empty,
}

/// One key of a table.
#[derive(Debug)]
pub struct Key {
    /// How the file spells it; a unit is its last part.
    pub name: &'static str,
    /// Which values are legal.
    pub form: Form,
    /// What it means to leave it out.
    pub presence: Presence,
    /// One line for the operator.
    pub doc: &'static str,
}

/// One table of the language.
#[derive(Debug)]
pub struct Table {
    /// How the file heads it: `[[domain]]`; empty for the document itself.
    pub header: &'static str,
    /// One line for the operator.
    pub doc: &'static str,
    /// Its keys in the order of the documentation.
    pub keys: &'static [&'static Key],
}
