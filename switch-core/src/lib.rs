//! Classification, chains, ledger and verdicts of the switch; no DPDK, no unsafe.
