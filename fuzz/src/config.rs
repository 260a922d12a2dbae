//! Configuration files of arbitrary bytes.

use security_domains::Config;

const FILE: &str = "fuzz.toml";

/// Reads a config. What is refused has findings that name file, line and column on one line each; what is
/// accepted can be listed and shown as JSON.
pub fn run(data: &[u8]) {
    match security_domains::parse_bytes(data, FILE) {
        Ok(config) => use_config(&config),
        Err(findings) => {
            let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
            assert!(findings.iter().len() > 0, "refused for nothing");
            for finding in &findings {
                let shown = finding.to_string();
                assert!(
                    shown.starts_with(&format!("{FILE}:{}:{}: ", finding.line, finding.column)),
                    "{shown}"
                );
                assert!((1..=lines).contains(&finding.line), "{shown}");
                assert!(!shown.chars().any(char::is_control), "{shown:?}");
            }
        }
    }
}

fn use_config(config: &Config) {
    let json = serde_json::to_string(config).unwrap_or_else(|error| panic!("has no JSON form: {error}"));
    let _: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    for endpoint in config.endpoints() {
        assert!(!endpoint.name.is_empty());
    }
    // Owners that work on copies have a domain of their own besides.
    assert!(config.needs().len() >= config.domains.len());
    for domain in &config.domains {
        assert_eq!(
            config.domain_named(&domain.name).map(|(_, found)| found),
            Some(domain),
            "names are unique"
        );
    }
}
