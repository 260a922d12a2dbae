//! The command line of netvm.
