//! A loop of a million rounds in a virtual machine of our own: does KVM run at the speed of hardware?
//!
//! `/dev/kvm` can be there and each instruction be emulated, a thousand times slower, so that Linux seems to
//! hang. Running the guest may itself hang, so this is the main function of a process that can be killed.

use std::io;
use std::process::ExitCode;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Rounds of the loop.
const ROUNDS: u32 = 1_000_000;
/// What the result starts with.
pub const RESULT_PREFIX: &str = "kvm-loop-us=";

const MEMORY_BYTES: usize = 4096;
const CODE_ADDRESS: u64 = 0x1000;

/// One page of the guest.
#[derive(Debug)]
struct GuestPage(NonNull<u8>);

impl GuestPage {
    fn with_loop() -> io::Result<Self> {
        // SAFETY: no address is asked for, so no mapping of ours is replaced.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                MEMORY_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let page = NonNull::new(page.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // mov ecx, ROUNDS; dec ecx; jnz back to dec; hlt — in real mode, so with operand-size prefixes.
        let [a, b, c, d] = ROUNDS.to_le_bytes();
        let code = [0x66, 0xb9, a, b, c, d, 0x66, 0x49, 0x75, 0xfc, 0xf4];
        // SAFETY: the page is new, `MEMORY_BYTES` long and ours alone until a guest runs; `code` is shorter.
        unsafe { page.copy_from_nonoverlapping(NonNull::from(&code).cast(), code.len()) };
        Ok(Self(page))
    }

    fn give_to(&self, vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: CODE_ADDRESS,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: self.0.addr().get() as u64,
        };
        // SAFETY: the page is mapped, of that size, and outlives the VM: it is dropped after it.
        unsafe { vm.set_user_memory_region(region) }
    }
}

impl Drop for GuestPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this size, and no VM or reference uses it any more. That it cannot
        // be unmapped would leak a page, no more.
        _ = unsafe { munmap(self.0.as_ptr().cast(), MEMORY_BYTES) };
    }
}

/// Runs the loop once. May hang: see the module's text.
///
/// # Errors
/// If KVM is missing or refuses a step.
pub fn run() -> io::Result<Duration> {
    let refused = |error: kvm_ioctls::Error| io::Error::from_raw_os_error(error.errno());
    let page = GuestPage::with_loop()?;
    // Made after the page, so dropped before it.
    let vm = Kvm::new().map_err(refused)?.create_vm().map_err(refused)?;
    page.give_to(&vm).map_err(refused)?;
    let mut vcpu = vm.create_vcpu(0).map_err(refused)?;

    let mut segments = vcpu.get_sregs().map_err(refused)?;
    (segments.cs.base, segments.cs.selector) = (0, 0);
    vcpu.set_sregs(&segments).map_err(refused)?;
    let mut registers = vcpu.get_regs().map_err(refused)?;
    // Bit 1 of the flags is always set.
    (registers.rip, registers.rflags) = (CODE_ADDRESS, 2);
    vcpu.set_regs(&registers).map_err(refused)?;

    let started = Instant::now();
    match vcpu.run().map_err(refused)? {
        VcpuExit::Hlt => Ok(started.elapsed()),
        other => Err(io::Error::other(format!("the loop ended in {other:?} instead of a halt"))),
    }
}

/// Runs the loop and prints the result, for [`super::accel`] to read.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(elapsed) => {
            println!("{RESULT_PREFIX}{}", elapsed.as_micros());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
