//! The switch process and its command line.
//!
//! `cli` reads what the operator says, `plan` turns a checked config into every concrete number, `control`
//! serves people and endpoints and may block, `datapath` moves packets and may not, `region` owns the shared
//! memory, `qemu` starts and watches virtual machines.

pub mod cli;
pub mod control;
pub mod datapath;
pub mod plan;
pub mod qemu;
pub mod region;
