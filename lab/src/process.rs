//! Names one process beyond doubt: a pid together with the time it started.

use std::fs;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

/// A pid and its start time, so that a reused pid is not mistaken for the process we knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid; also the process group, for children of [`crate::child::Child`].
    pub pid: i32,
    /// Clock ticks after boot at which it started (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process with this pid, if it lives.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid: i32::try_from(pid).ok()?, start_ticks: start_ticks(pid)? })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        Self { pid: i32::try_from(pid).unwrap_or(i32::MAX), start_ticks: start_ticks(pid).unwrap_or(0) }
    }

    /// Whether that very process still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        u32::try_from(self.pid).ok().and_then(start_ticks) == Some(self.start_ticks)
    }

    /// Sends a signal to the process group that this process leads; nothing happens when it is gone.
    pub fn signal_group(self, signal: Signal) {
        if !self.is_alive() {
            return;
        }
        if let Some(group) = Pid::from_raw(self.pid) {
            // The group may end between the check and the call: then there is nothing left to do.
            let _gone = kill_process_group(group, signal);
        }
    }
}

fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces: count fields from the last parenthesis (field 2).
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_as_alive() {
        assert!(ProcessId::own().is_alive());
    }

    #[test]
    fn takes_a_reused_pid_for_another_process() {
        let own = ProcessId::own();
        assert!(!ProcessId { start_ticks: own.start_ticks + 1, ..own }.is_alive());
    }
}
