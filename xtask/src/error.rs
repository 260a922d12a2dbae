//! What can go wrong in a task.

use std::path::PathBuf;

use lab::error::LabError;

/// A failed task.
#[derive(Debug, thiserror::Error)]
pub enum XtaskError {
    /// Something in the laboratory failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Packages are missing and may not be installed.
    #[error("missing packages: {}; install them with `apt-get install {}`", .0.join(", "), .0.join(" "))]
    Packages(Vec<&'static str>),
    /// A build failed.
    #[error("{what} failed; its output ends with:\n{tail}")]
    Build {
        /// What was built.
        what: String,
        /// The end of its output.
        tail: String,
    },
    /// Tests failed.
    #[error("{failed} of the tests or stages failed")]
    Tests {
        /// How many.
        failed: u64,
    },
    /// Fuzz targets found something.
    #[error("{failed} of the fuzz targets found an input that fails; it is in target/fuzz/artifacts")]
    Fuzz {
        /// How many.
        failed: usize,
    },
    /// No stage of the tests has such a name.
    #[error("nothing is called like {filter:?}; there are: {}", known.join(", "))]
    NoStage {
        /// What was asked for.
        filter: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The demo's own checks found something wrong.
    #[error("the demo ran, but {0}")]
    Demo(String),
    /// The attack found something wrong, or did not come to its end; it has said so itself.
    #[error("a promise did not hold under attack, or the attack did not come to its end; see above")]
    Attack,
    /// A path that must be there is not.
    #[error("{} is missing: {why}", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// What makes it.
        why: &'static str,
    },
}
