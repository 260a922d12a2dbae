//! The project's own commands: demo, test, image, bench, clean.

fn main() {}
