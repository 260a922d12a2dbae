//! The real image, built from Debian's packages.

use images::build::{ImageSpec, build};

#[test]
#[ignore = "fetches Debian packages; `cargo xtask test` runs it"]
fn building_twice_gives_identical_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    for name in ["one", "two"] {
        build(&ImageSpec { programs: Vec::new(), out: out(name), cache: out("cache") }).unwrap();
    }
    for file in ["vmlinuz", "initramfs.cpio.gz", "manifest.json"] {
        let read = |name: &str| std::fs::read(out(name).join(file)).unwrap();
        assert!(read("one") == read("two"), "{file} differs");
    }
}
