//! Each refused file is refused with exactly the text beside it.
//!
//! `UPDATE=1 cargo test -p security-domains` writes the texts anew; read the difference before it is kept.

use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("refused")
}

/// File names in the folder that end so, without the ending, sorted.
fn stems(ending: &str) -> Vec<String> {
    let mut stems: Vec<String> = std::fs::read_dir(folder())
        .expect("the folder of refused files is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(ending).map(str::to_owned))
        .collect();
    stems.sort();
    stems
}

#[test]
fn each_refused_file_shows_the_text_beside_it() {
    let files = stems(".toml");
    assert!(files.len() >= 60, "{} refused files", files.len());
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for stem in &files {
        let file = format!("{stem}.toml");
        let text = std::fs::read_to_string(folder().join(&file)).unwrap();
        let shown = match security_domains::parse(&text, &file) {
            Ok(_) => panic!("{file} is accepted"),
            Err(findings) => format!("{findings}\n"),
        };
        let expected_path = folder().join(format!("{stem}.txt"));
        if update {
            std::fs::write(&expected_path, &shown).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            wrong.push(format!("{file} shows\n{shown}instead of\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(files, stems(".txt"), "each text belongs to a file");
}
