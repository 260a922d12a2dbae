//! The guest image: a kernel and an initramfs that runs network functions, and what each VM adds to it.
//!
//! [`build::build`] makes the image once from Debian packages and static programs; it needs `apt-get`,
//! `dpkg-deb` and no root. [`guest_files::GuestFiles`] is what one VM gets on top: which network functions to
//! start, with which arguments and files. Both are cpio archives, because the kernel unpacks as many as it is
//! given, one after the other.
#![forbid(unsafe_code)]

pub mod build;
pub mod cpio;
pub mod debian;
pub mod elf;
pub mod guest_files;
pub mod kernel_args;
pub mod manifest;
pub mod modules;
pub mod package;
