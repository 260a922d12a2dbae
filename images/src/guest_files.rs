//! What one VM gets on top of the image: its list of network functions and their files.
//!
//! The list is `/etc/netvm/run`: one line per network function, in the words of a shell:
//!
//! ```text
//! 0 firewall '--rules' '/etc/netvm/rules.toml'
//! ```
//!
//! that is the endpoint's index within this VM, the program in `/bin`, its arguments. The guest's `init`
//! starts each under netlib's supervisor. Files under `/etc/netvm/boot.d/` are shell scripts that `init` runs
//! after that, side by side.

use std::collections::BTreeMap;

use crate::cpio::{Archive, CpioError};

/// Where the list of network functions lies in the guest.
pub const RUN_PATH: &str = "/etc/netvm/run";

/// What cannot be said to a guest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFilesError {
    /// The program must be one of the image's `/bin`.
    #[error(
        "network function {name:?} must be the name of a program in the guest's /bin: letters, digits, - _ ."
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The list has one line per network function.
    #[error(
        "argument {argument:?} of {nf} has a line break or a zero byte; one line holds the whole command"
    )]
    Argument {
        /// Whose argument.
        nf: String,
        /// The argument.
        argument: String,
    },
    /// The list is written by us.
    #[error("{RUN_PATH} is the list of network functions; give this file another path")]
    RunPath,
    /// A file does not fit an archive.
    #[error(transparent)]
    Archive(#[from] CpioError),
}

/// A network function to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NfLine {
    /// Index of its endpoint within this VM.
    pub endpoint: u16,
    /// Name of a program in the guest's `/bin`.
    pub nf: String,
    /// Its arguments; spaces and quotes survive.
    pub args: Vec<String>,
}

/// Everything that one VM gets on top of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestFiles {
    /// What to start.
    pub run: Vec<NfLine>,
    /// Guest path → content.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl GuestFiles {
    /// The archive that goes behind the image's initramfs (see [`crate::cpio::stacked`]).
    ///
    /// # Errors
    /// If a name, an argument or a path is one that the guest would not get as it is.
    pub fn to_archive(&self) -> Result<Vec<u8>, GuestFilesError> {
        let mut archive = Archive::new();
        for (path, bytes) in &self.files {
            if path == RUN_PATH {
                return Err(GuestFilesError::RunPath);
            }
            archive.file(path, 0o644, bytes.clone())?;
        }
        archive.file(RUN_PATH, 0o644, self.run_text()?.into_bytes())?;
        Ok(archive.to_bytes())
    }

    fn run_text(&self) -> Result<String, GuestFilesError> {
        self.run.iter().map(NfLine::text).collect()
    }
}

impl NfLine {
    fn text(&self) -> Result<String, GuestFilesError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.nf.is_empty() || self.nf.starts_with(['-', '.']) || !self.nf.chars().all(plain) {
            return Err(GuestFilesError::Name { name: self.nf.clone() });
        }
        let mut line = format!("{} {}", self.endpoint, self.nf);
        for argument in &self.args {
            if argument.contains(['\n', '\r', '\0']) {
                let (nf, argument) = (self.nf.clone(), argument.clone());
                return Err(GuestFilesError::Argument { nf, argument });
            }
            // Nothing is special within single quotes but the quote itself.
            line.push_str(&format!(" '{}'", argument.replace('\'', r"'\''")));
        }
        line.push('\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn line(nf: &str, args: &[&str]) -> NfLine {
        NfLine { endpoint: 3, nf: nf.to_owned(), args: args.iter().map(|&a| a.to_owned()).collect() }
    }

    #[test]
    fn a_shell_reads_back_the_arguments_as_they_were() {
        let odd = ["two words", "it's", "$HOME `id` \"q\" \\", "", "*", "--x=ü"];
        let text = line("firewall", &odd).text().unwrap();
        let script = "eval \"set -- $1\"; for word; do printf '%s\\n' \"$word\"; done";
        let shell = Command::new("sh").args(["-c", script, "sh", text.trim_end()]).output().unwrap();
        let words = String::from_utf8(shell.stdout).unwrap();
        assert_eq!(words.trim_end_matches('\n').split('\n').skip(2).collect::<Vec<_>>(), odd);
    }

    #[test]
    fn refuses_an_argument_that_would_start_a_second_line() {
        let files = GuestFiles { run: vec![line("router", &["a\n0 sh"])], ..GuestFiles::default() };
        assert!(matches!(files.to_archive(), Err(GuestFilesError::Argument { .. })));
    }

    #[test]
    fn refuses_a_program_outside_bin() {
        for name in ["../sbin/x", "a b", "", "-x", "a;b", "."] {
            assert_eq!(line(name, &[]).text(), Err(GuestFilesError::Name { name: name.to_owned() }));
        }
    }

    #[test]
    fn refuses_a_file_in_place_of_the_list() {
        let files = BTreeMap::from([(RUN_PATH.to_owned(), Vec::new())]);
        let refused = GuestFiles { run: Vec::new(), files }.to_archive();
        assert_eq!(refused, Err(GuestFilesError::RunPath));
    }
}
