//! What may be asked of a running switch's config, and what is answered.

use std::path::PathBuf;

use schemars::JsonSchema;
use security_domains::{EditError, Findings};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::status::ApiError;
use crate::plan::Difference;

/// The body of `PUT /v1/config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigRequest {
    /// Where the text comes from, as an absolute path: relative paths in it count from there.
    pub file: PathBuf,
    /// The whole config.
    pub text: String,
}

/// How a change is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only say what would change.
    pub dry_run: bool,
    /// Refuse if the running config is not of this generation.
    pub generation: Option<u64>,
    /// Of a new rule, edge or policy: its place from 0; else it is the last.
    pub at: Option<usize>,
}

/// Parameters of a change, and what each means.
pub const PARAMETERS: [(&str, &str); 3] = [
    ("dry_run", "true: only say what would change."),
    ("generation", "Refuse with 409 if the running config is not of this generation."),
    ("at", "Of a new rule, edge or policy: its place from 0; left out: the last."),
];

impl Options {
    /// Out of the query of a URL.
    ///
    /// # Errors
    /// What is no such parameter, or no value of it.
    pub fn of_query(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let refused = |rule: &str| format!("{key} must be {rule}, got {:.20}", value.escape_debug());
            match key {
                "dry_run" => options.dry_run = value.parse().map_err(|_| refused("true or false"))?,
                "generation" => {
                    options.generation = Some(value.parse().map_err(|_| refused("a number"))?);
                }
                "at" => options.at = Some(value.parse().map_err(|_| refused("a number"))?),
                _ => {
                    let known: Vec<&str> = PARAMETERS.iter().map(|(name, _)| *name).collect();
                    return Err(format!("no parameter {:.40?}; there are: {}", key, known.join(", ")));
                }
            }
        }
        Ok(options)
    }
}

/// What is to be other.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// The whole config.
    Config(ConfigRequest),
    /// One more table of a kind.
    Add {
        /// Such as `chain`.
        kind: &'static str,
        /// Its keys.
        object: Value,
    },
    /// Another table in place of one.
    Replace {
        /// Such as `chain`.
        kind: &'static str,
        /// Its name, or place.
        name: String,
        /// Its keys.
        object: Value,
    },
    /// One table less.
    Remove {
        /// Such as `chain`.
        kind: &'static str,
        /// Its name, or place.
        name: String,
    },
}

/// What a change has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// Whether it was made; else it was a dry run.
    pub applied: bool,
    /// Of the config that runs now: one more with each change.
    pub generation: u64,
    /// What is other than before.
    pub difference: Difference,
    /// How long ports waited for packets that were on their way, in microseconds.
    pub held_us: u64,
    /// Packets that were still on their way when ports waited no longer: others of their flows may have overtaken
    /// them.
    pub overtaken: u64,
}

/// The answer of `GET /v1/config/text`: the config that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunningConfig {
    /// One more with each change.
    pub generation: u64,
    /// Where relative paths in it count from.
    pub file: PathBuf,
    /// The whole config, changes included.
    pub text: String,
}

/// Why a config is not changed. Nothing has changed then, but for [`ChangeError::NoAnswer`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// It is no legal config, with all findings.
    #[error("{count} finding{s}; nothing was changed\n{0}", count = .0.len(), s = if .0.len() == 1 { "" } else { "s" })]
    Findings(Findings),
    /// It is a legal config, and cannot be carried out.
    #[error("{0}; nothing was changed")]
    Plan(String),
    /// A running switch cannot do it.
    #[error("this takes a restart of the switch; nothing was changed\n{0}")]
    Restart(Difference),
    /// Somebody else was faster.
    #[error("the running config is of generation {running}, not {wanted}; nothing was changed")]
    Generation {
        /// What runs.
        running: u64,
        /// What was thought to run.
        wanted: u64,
    },
    /// There is nothing to edit so.
    #[error("{0}; nothing was changed")]
    Edit(EditError),
    /// The request is none.
    #[error("{0}; nothing was changed")]
    Request(String),
    /// An lcore or the keeper does not answer. Others may have taken the change up; `netvm config` says which config
    /// runs.
    #[error("{0}")]
    NoAnswer(String),
}

impl ChangeError {
    /// The status of HTTP that says it best.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Findings(_) | Self::Plan(_) => 422,
            Self::Restart(_) | Self::Generation { .. } | Self::Edit(EditError::Taken { .. }) => 409,
            Self::Edit(EditError::NoKind { .. } | EditError::NoTable { .. }) => 404,
            Self::Edit(EditError::Object { .. } | EditError::Text) | Self::Request(_) => 400,
            Self::NoAnswer(_) => 503,
        }
    }

    /// The same for tools.
    #[must_use]
    pub fn answer(&self) -> ApiError {
        let mut answer = ApiError { error: self.to_string(), ..ApiError::default() };
        match self {
            Self::Findings(findings) => answer.findings = Some(json!(findings)),
            Self::Restart(difference) => answer.difference = Some(difference.clone()),
            Self::Generation { running, .. } => answer.generation = Some(*running),
            Self::Plan(_) | Self::Edit(_) | Self::Request(_) | Self::NoAnswer(_) => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_others_refused() {
        let options = Options::of_query("dry_run=true&generation=7&at=0").unwrap();
        assert_eq!(options, Options { dry_run: true, generation: Some(7), at: Some(0) });
        assert_eq!(Options::of_query(""), Ok(Options::default()));
        assert_eq!(Options::of_query("dry_run"), Err("dry_run must be true or false, got ".to_owned()));
        assert_eq!(Options::of_query("generation=-1"), Err("generation must be a number, got -1".to_owned()));
        let refused = Options::of_query("dryrun=true").unwrap_err();
        assert_eq!(refused, "no parameter \"dryrun\"; there are: dry_run, generation, at");
    }
}
