//! The router's file of interfaces and routes, of arbitrary bytes.

use nfs::router::file;

/// As [`crate::firewall_rules::run`].
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match file::parse("fuzz.toml", text) {
        Ok(settings) => assert_eq!(file::parse("fuzz.toml", &format!("{text}\n# end\n")), Ok(settings)),
        Err(findings) => crate::settings::check(&findings.to_string()),
    }
}
