//! The firewall's policy file, of arbitrary bytes.

use nfs::firewall::file;

/// Reads a policy: never a panic, findings that may be shown on a terminal, and the same policy once more from
/// the same file with a comment behind it.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match file::parse("fuzz.toml", text) {
        Ok(policy) => assert_eq!(file::parse("fuzz.toml", &format!("{text}\n# end\n")), Ok(policy)),
        Err(findings) => crate::settings::check(&findings.to_string()),
    }
}
