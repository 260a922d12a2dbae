//! QEMU options as data: one list that becomes an argument vector, a text for people, or a config file.

use std::fmt::Write;

/// One option of QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QemuOption {
    /// `-flag`, or `-flag value` with the value taken as it is.
    Plain(&'static str, Option<String>),
    /// `-flag kind,id=…,key=value,…`, which a config file can hold as a section.
    Section(Section),
}

/// An option with an id and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// `object`, `device`, `netdev`, `chardev` or `mon`.
    pub group: &'static str,
    /// What a config file calls `kind`: `qom-type`, `driver`, `backend`, or the first setting of a `mon`.
    pub kind_key: &'static str,
    /// Which object, device or back end.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// The rest.
    pub settings: Vec<(&'static str, String)>,
}

impl Section {
    /// As the argument after `-group`.
    fn argument(&self) -> String {
        // The kind needs no key on the command line, except for `-mon`, whose short form is obsolete.
        let key = if self.group == "mon" { "chardev=" } else { "" };
        let mut text = format!("{key}{},id={}", escaped(&self.kind), escaped(&self.id));
        for (key, value) in &self.settings {
            _ = write!(text, ",{key}={}", escaped(value));
        }
        text
    }

    /// As a section of a `-readconfig` file.
    ///
    /// The file format has no escapes: a value must have no double quote and no line break.
    fn config_text(&self) -> String {
        let mut text = format!("[{} \"{}\"]\n  {} = \"{}\"\n", self.group, self.id, self.kind_key, self.kind);
        for (key, value) in &self.settings {
            _ = writeln!(text, "  {key} = \"{value}\"");
        }
        text
    }
}

/// A comma parts settings, so a comma within one is doubled.
pub(super) fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// The whole command line of one QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program.
    pub program: String,
    /// What we ask for.
    pub options: Vec<QemuOption>,
    /// What the operator adds, as it is.
    pub extra: Vec<String>,
}

impl CommandLine {
    /// The arguments after the program's name.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let ours = self.options.iter().flat_map(pair).flatten();
        ours.chain(self.extra.iter().cloned()).collect()
    }

    /// The command as a shell takes it, one option a line.
    #[must_use]
    pub fn to_shell(&self) -> String {
        let mut text = shell_quoted(&self.program);
        for [flag, value] in self.options.iter().map(pair) {
            for (word, lead) in [(flag, " \\\n  "), (value, " ")] {
                if let Some(word) = word {
                    text.push_str(lead);
                    text.push_str(&shell_quoted(&word));
                }
            }
        }
        for word in &self.extra {
            // An option of the operator starts a line; its value follows on it.
            text.push_str(if word.starts_with('-') { " \\\n  " } else { " " });
            text.push_str(&shell_quoted(word));
        }
        text.push('\n');
        text
    }

    /// Every option that a `-readconfig` file can hold, as such a file.
    #[must_use]
    pub fn to_config(&self) -> String {
        let sections = self.options.iter().filter_map(|option| match option {
            QemuOption::Section(section) => Some(section.config_text()),
            QemuOption::Plain(..) => None,
        });
        sections.collect::<Vec<_>>().join("\n")
    }
}

fn pair(option: &QemuOption) -> [Option<String>; 2] {
    match option {
        QemuOption::Plain(flag, value) => [Some(format!("-{flag}")), value.clone()],
        QemuOption::Section(section) => [Some(format!("-{}", section.group)), Some(section.argument())],
    }
}

/// The word in single quotes unless it is plain.
fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> CommandLine {
        let section = Section {
            group: "chardev",
            kind_key: "backend",
            kind: "file".to_owned(),
            id: "serial".to_owned(),
            settings: vec![("path", "/tmp/a,b".to_owned())],
        };
        let options = vec![
            QemuOption::Plain("nodefaults", None),
            QemuOption::Plain("append", Some("console=ttyS0 it's".to_owned())),
            QemuOption::Section(section),
        ];
        CommandLine {
            program: "qemu".to_owned(),
            options,
            extra: vec!["-device".to_owned(), "x y".to_owned()],
        }
    }

    #[test]
    fn a_comma_in_a_value_is_doubled() {
        assert_eq!(line().arguments()[4], "file,id=serial,path=/tmp/a,,b");
    }

    #[test]
    fn the_shell_text_is_one_option_a_line_and_quoted() {
        let text = "qemu \\\n  -nodefaults \\\n  -append 'console=ttyS0 it'\\''s' \\\n  \
                    -chardev file,id=serial,path=/tmp/a,,b \\\n  -device 'x y'\n";
        assert_eq!(line().to_shell(), text);
    }

    #[test]
    fn the_config_text_has_the_sections_only() {
        let text = "[chardev \"serial\"]\n  backend = \"file\"\n  path = \"/tmp/a,b\"\n";
        assert_eq!(line().to_config(), text);
    }
}
