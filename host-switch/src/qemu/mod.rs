//! Starts and watches virtual machines.
//!
//! [`command`] says what QEMU is asked for, [`launch`] starts it with the memory of a VM inherited as file
//! descriptors, [`boot_watch`] follows the guest's console until its network functions run, [`qmp`] speaks to
//! QEMU afterwards. [`accel`] finds out, by trying, whether hardware virtualisation works on this machine.
//!
//! QEMU is trusted no more than its guest: whatever it or its guest writes is read with a bound, and none of
//! it is printed.

pub mod accel;
pub mod boot_watch;
pub mod command;
pub mod extra;
pub mod initramfs;
pub mod kvm_loop;
pub mod launch;
pub mod log_file;
pub mod options;
pub mod qmp;

#[cfg(test)]
mod real_vm;
