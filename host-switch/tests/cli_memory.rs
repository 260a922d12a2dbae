//! Memory with a name: who makes the files, who removes them, and which stay. Needs what `cli_switch` needs.

mod cli;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cli::Lab;
use rustix::process::Signal;

/// The config of a switch whose region is the file `memory`, and that file.
#[allow(clippy::unwrap_used, reason = "a laboratory that does not work is a test that failed")]
fn config(lab: &Lab, switch: &str) -> (PathBuf, PathBuf) {
    let file = lab.run_dir().with_file_name("memory");
    let config = lab.config(switch, &["net_null0"]);
    let text = std::fs::read_to_string(&config).unwrap();
    let path = format!("path = \"{}\"\npages = \"plain\"", file.display());
    std::fs::write(&config, text.replacen("pages = \"plain\"", &path, 1)).unwrap();
    (config, file)
}

fn area_of(file: &Path) -> PathBuf {
    file.with_extension("fwd0")
}

#[test]
fn a_switch_makes_the_files_of_its_memory_and_takes_them_away() {
    let lab = Lab::new();
    let (config, file) = config(&lab, "named");
    let switch = lab.switch(&config);
    for (path, bytes) in [(file.clone(), 8 << 20), (area_of(&file), 65_536)] {
        let about = std::fs::metadata(&path).unwrap();
        assert_eq!((about.len(), about.permissions().mode() & 0o777), (bytes, 0o600), "{path:?}");
    }
    switch.signal(Signal::TERM);
    assert!(switch.wait().success());
    assert!(!file.exists() && !area_of(&file).exists());
    assert_eq!(lab.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn files_of_a_switch_that_was_killed_make_room_for_the_next() {
    let lab = Lab::new();
    let (config, file) = config(&lab, "named");
    let killed = lab.switch(&config);
    killed.signal(Signal::KILL);
    assert!(!killed.wait().success());
    let old = std::fs::metadata(&file).unwrap();
    // Keeps the old file's inode, so that the new one is seen to be another.
    let _old = std::fs::File::open(&file).unwrap();

    let next = lab.switch(&config);
    assert_ne!(std::fs::metadata(&file).unwrap().ino(), old.ino());
    next.signal(Signal::TERM);
    assert!(next.wait().success());
    assert!(!file.exists() && !area_of(&file).exists());
}

#[test]
fn a_file_that_took_the_place_of_a_killed_switchs_is_refused_and_stays() {
    let lab = Lab::new();
    let (config, file) = config(&lab, "named");
    let killed = lab.switch(&config);
    killed.signal(Signal::KILL);
    assert!(!killed.wait().success());
    let _old = std::fs::File::open(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "thesis").unwrap();

    let said = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!said.good);
    let rule = format!("{} exists already: another switch has it, or somebody left it", file.display());
    let fix = format!("if nobody uses the file, `rm {}`", file.display());
    assert!(said.errors.contains(&rule) && said.errors.contains(&fix), "{}", said.errors);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "thesis");
    assert!(!area_of(&file).exists(), "what was provably its own is gone");
    assert_eq!(lab.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn two_switches_do_not_share_a_file() {
    let lab = Lab::new();
    let (first, file) = config(&lab, "first");
    let switch = lab.switch(&first);
    let (second, _) = config(&lab, "second");
    let said = lab.netvm(&["run", second.to_str().unwrap()]);
    assert!(!said.good && said.errors.contains("exists already: another switch has it"), "{said:?}");
    assert!(file.exists() && lab.netvm(&["status", "--switch", "first"]).good);
    switch.signal(Signal::TERM);
    assert!(switch.wait().success());
}

#[test]
fn huge_pages_want_a_path_on_hugetlbfs() {
    let lab = Lab::new();
    let (config, file) = config(&lab, "huge");
    let text = std::fs::read_to_string(&config).unwrap().replace("\"plain\"", "\"hugetlb\"");
    std::fs::write(&config, text).unwrap();
    let said = lab.netvm(&["run", config.to_str().unwrap()]);
    assert!(!said.good && said.errors.contains("choose a `path` on hugetlbfs"), "{said:?}");
    assert!(!file.exists());
}

#[test]
fn the_printed_command_line_names_the_files() {
    let lab = Lab::new();
    let config = lab.vm_config("/dev/null");
    let text = std::fs::read_to_string(&config).unwrap();
    let file = lab.run_dir().with_file_name("memory");
    let path = format!("path = \"{}\"\npages = \"plain\"", file.display());
    std::fs::write(&config, text.replacen("pages = \"plain\"", &path, 1)).unwrap();
    let said = lab.netvm(&["boot", "--print", config.to_str().unwrap(), "fw0"]);
    assert!(said.good, "{said:?}");
    let file = file.display();
    for option in
        [format!("mem-path={file},size=8388608,share=on"), format!("mem-path={file}.fw0,size=65536,share=on")]
    {
        assert!(said.output.contains(&option), "{option} in {}", said.output);
    }
    assert!(said.errors.starts_with("Control area and region are files"), "{}", said.errors);
}
