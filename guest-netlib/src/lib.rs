//! What a network function links: polls descriptor rings and processes packets in place.
//!
//! A network function (NF) is a program in a VM, a container or a plain process. The switch lends it packets
//! in the memory where the NIC put them; the NF looks at them, changes them there, and gives each back with a
//! verdict. Nothing is copied.
//!
//! # A network function in ten lines
//!
//! ```no_run
//! use guest_netlib::{Device, Endpoint, Options, Run, Stop};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let device = Device::find(&Options::from_env())?;
//!     let mut endpoint = Endpoint::attach(&device, 0)?;
//!     let how = Run { stop: Stop::on_signals()?, ..Run::default() };
//!     endpoint.run(&how, |packet| packet.next())?;
//!     Ok(())
//! }
//! ```
//!
//! The same program runs in a guest, where [`Device::find`] looks at the PCI devices, and as a process of the
//! host, where `NETVM_SOCKET` names the switch's endpoint.sock and `NETVM_NAME` the process in its config.
//!
//! # Packets and verdicts
//!
//! A [`Packet`] is held by one party at a time and moves into its verdict:
//!
//! ```no_run
//! # use guest_netlib::{Endpoint, Run};
//! # fn only_ipv4(mut endpoint: Endpoint) -> Result<(), Box<dyn std::error::Error>> {
//! let server = endpoint.target_port("server")?;
//! endpoint.run(&Run::default(), |packet| match packet.data() {
//!     [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, ..] => packet.to_port(server),
//!     frame if frame.len() < 60 => packet.drop_packet(),
//!     _ => packet.next(),
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! A packet that is dropped without a verdict, by an early `return` or a panic, goes home with the verdict
//! drop. A burst that is used by half gives back the rest. An [`Endpoint`] that is dropped has the switch stop
//! feeding, gives back everything and says that it left; a run that is stopped handles what comes until then: see
//! [`leaving`].
//!
//! # The own loop
//!
//! ```no_run
//! # use guest_netlib::{Burst, Endpoint, Idle, PollError, Stop};
//! # fn own_loop(endpoint: Endpoint, stop: Stop) -> Result<(), PollError> {
//! let pair = &endpoint.queue_pairs()[0];
//! let mut burst = Burst::new();
//! let mut empty_polls = 0;
//! while !stop.asked() {
//!     if pair.poll(&mut burst)? == 0 {
//!         empty_polls += 1;
//!         Idle::sleep().wait(empty_polls);
//!         continue;
//!     }
//!     empty_polls = 0;
//!     for packet in &mut burst {
//!         packet.next();
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An endpoint has a queue pair for each lcore of the switch; one thread may poll them all, or
//! [`Endpoint::split`] gives each thread its own. A [`PollError`] means that this attach is over:
//! [`Endpoint::attach_anew`] starts the next.
//!
//! An NF that holds packets back, or has something to do when there are none, runs
//! [`Endpoint::run_holding`]: see [`holding`].
//!
//! # Making packets
//!
//! An NF with credit in the config is lent empty buffers:
//!
//! ```no_run
//! # fn make(pair: &guest_netlib::QueuePair, frame: &[u8]) {
//! if let Some(buffer) = pair.take_empty()
//!     && let Ok(packet) = buffer.fill(frame)
//! {
//!     packet.next();
//! }
//! # }
//! ```
//!
//! # Looking on
//!
//! A program that observes its domain gets [`View`]s instead of packets, by [`Endpoint::run_views`] or
//! [`Endpoint::run_holding`]: see [`view`].
//!
//! # When an NF dies
//!
//! A process of the host shows its death by the end of its connection. In a guest, start the NF under
//! `netlib-supervise --endpoint 0 -- /bin/my-nf`, which tells the switch and starts it again; without it, the
//! buffers of a dead NF stay in quarantine until the VM is reset.
//!
//! # What a neighbour can do
//!
//! The VMs of one domain map the same packet memory: see [`packet`] for what that means for the bytes of a
//! packet, and what it cannot mean for the memory safety of the NF.
#![deny(missing_docs)]

#[cfg(all(
    any(
        feature = "sabotage-drop-returns",
        feature = "sabotage-leave-at-once",
        feature = "sabotage-view-check"
    ),
    not(debug_assertions)
))]
compile_error!("a sabotage feature breaks this crate on purpose and is for its tests only");

#[cfg(test)]
extern crate self as guest_netlib;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

mod attach;
mod burst;
mod death;
mod device;
mod empty;
mod endpoint;
pub mod holding;
mod idle;
pub mod leaving;
mod mapping;
pub mod packet;
mod queue;
mod region;
mod run;
mod seat;
mod shown;
mod stop;
mod supervise;
mod targets;
pub mod view;

pub use attach::AttachError;
pub use burst::{BURST_PACKETS_MAX, Burst};
pub use death::DeathNotice;
pub use device::{Device, DeviceError, Options, PciError, ProcessError};
pub use empty::{EmptyBuffer, FillError};
pub use endpoint::{ATTACH_TIMEOUT_DEFAULT, Endpoint, SplitPair};
pub use idle::{Idle, UnknownIdle};
pub use packet::{Packet, ResizeError};
pub use queue::{PollError, QueuePair};
pub use run::{End, Run, RunError, RunReport};
pub use shown::QueueCounters;
pub use stop::Stop;
pub use supervise::{SuperviseError, Supervised};
pub use targets::{PortTarget, ServiceTarget, TargetError};
pub use view::{Expired, View};
