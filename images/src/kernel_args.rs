//! The guest kernel's command line.

/// Arguments that every guest of ours gets, each with its reason.
///
/// Measured and left out, because the difference drowned in the spread: `nokaslr`, `tsc=reliable`,
/// `mitigations=off`, `lpj=`. The figures are in `images/README.md`.
pub const KERNEL_ARGS: &[(&str, &str)] = &[
    ("console=ttyS0", "the serial console is the log that the host keeps and reads markers from"),
    ("quiet", "a line of kernel log is a thousand exits from the guest; errors still show"),
    (
        "panic=-1",
        "a panic reboots at once, so that the host gets a RESET event: proof that no old writer runs",
    ),
    ("no_timer_check", "on a busy host the timer check fails: \"IO-APIC + timer doesn't work!\""),
    ("cryptomgr.notests", "the kernel's tests of its own ciphers cost a quarter of a second under TCG"),
];

/// The command line of [`KERNEL_ARGS`].
#[must_use]
pub fn kernel_args() -> String {
    KERNEL_ARGS.iter().map(|&(argument, _)| argument).collect::<Vec<_>>().join(" ")
}
