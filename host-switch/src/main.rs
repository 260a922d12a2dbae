//! The switch process and its command line: netvm.

fn main() {}
