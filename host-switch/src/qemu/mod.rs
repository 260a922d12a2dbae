//! Starts and watches virtual machines.
