//! Test builds that turn one check off: a named test must fail then, or it proves nothing.

/// One sabotaged check.
pub struct Sabotage {
    /// The crate.
    pub package: &'static str,
    /// Its feature, `sabotage-...`.
    pub feature: &'static str,
    /// Narrows the build to what holds the test: `--lib`, `--test NAME`, ...
    pub target: &'static [&'static str],
    /// The test that must fail.
    pub test: &'static str,
    /// Whether the test is a loom model.
    pub loom: bool,
}

/// Every sabotage there is.
pub const ALL: &[Sabotage] = &[];
