//! A laboratory on one machine: namespaces, child processes, hugepages, and a journal that undoes them.
//!
//! The demo and the VM tests build the same scene: hosts in network namespaces, a switch between them, NFs
//! as processes or VMs. Whatever they change on the machine is written into a [`journal::Journal`] before
//! it happens, so that it can be undone after success, failure, Ctrl-C, or (by the next start) SIGKILL.
#![deny(missing_docs)]

pub mod artifacts;
pub mod beacon;
pub mod child;
pub mod error;
pub mod flood;
pub mod hugepages;
pub mod journal;
pub mod namespace;
pub mod paced;
pub mod process;
pub mod status;
pub mod switch;
pub mod transfer;
