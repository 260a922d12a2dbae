//! What can go wrong in the laboratory.

use std::path::PathBuf;

/// A failure, with what was tried and what the machine answered.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command of the system could not be started.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A command of the system failed.
    #[error("`{command}` ended with {status}: {output}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    File {
        /// "read", "write", ...
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("waited {seconds} s for {what}, in vain{detail}")]
    TimedOut {
        /// What was expected.
        what: String,
        /// How long.
        seconds: u64,
        /// What was seen instead; starts with ": " if not empty.
        detail: String,
    },
    /// A child ended that should have stayed.
    #[error("{name} ended early with {status}; the end of its log {}:\n{tail}", log.display())]
    EndedEarly {
        /// Name of the child.
        name: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines of its log.
        tail: String,
    },
    /// The switch answered something that is not its status.
    #[error("the status of the switch is not understood: {what}")]
    Status {
        /// Which part.
        what: String,
    },
    /// This needs root.
    #[error("this needs root (namespaces, hugepages, raw ports); run it as root")]
    NotRoot,
}

impl LabError {
    /// A failure on a file.
    pub fn file(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }
}
