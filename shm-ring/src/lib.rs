//! Layout of the memory that host and guests share, and the descriptor rings in it.
//!
//! This crate is the only code that touches words which another party writes. Its laws:
//!
//! - A word that the peer writes is read **once**, atomically, into private memory; only that copy is
//!   checked and used.
//! - Nothing here makes a reference to plain (non-atomic) shared memory; the unsafe code that lays structs over
//!   memory is in one file, `area/mapping.rs`.
//! - A counter of the peer that breaks its invariant is an error with both figures in it, never clamped.
//! - The host reads back nothing that it wrote: its plan, its private counters and its journals are the truth.
//!
//! [`layout`] says where everything lies, [`desc`] what sixteen bytes of descriptor mean, [`ring`] moves
//! descriptors, [`area`] lays all of it over memory, [`endpoint`] is both sides of one endpoint's words, and
//! [`attach`] the handshake between them; [`reference`] is how an observer learns that what it copied had changed. `include/netvm.h` is the same for guests in C.
//! Positions of our rings are called `produced` and `consumed`; head and tail mean too many things.
//!
//! # What is proved, and how
//!
//! | claim | by |
//! |---|---|
//! | what is taken was published; a slot is overwritten only after it was read; also where counters wrap | loom models |
//! | no wake-up is lost by the doorbell protocol that the layout reserves words for | loom model |
//! | who sees a nonce, an answer, a confirmation, the end of the feeding or of an epoch sees what belongs to it | loom models |
//! | the journal never lags what the peer saw; who reads it finds the ledger as of then | loom models |
//! | a copy of a buffer under a reference that still held holds nothing of what came into that buffer later | loom models |
//! | a ring is a queue of exactly its slots, and no peer's counter leads beyond it | unit and property tests |
//! | wherever the host is stopped, no buffer has two holders or none after a take-over | `crash.rs` |
//! | epochs rise, rings change hands over the lcores only, buffers come home on proof only | walk of every reachable [`attach::AttachMachine`] |
//! | a guest refuses each header and table that breaks the layout; pages have one writer | `tests/area.rs` |
//! | the C header says the same | `tests/c_header.rs` |
//!
//! ```text
//! cargo test -p shm-ring
//! RUSTFLAGS="--cfg loom" cargo test -p shm-ring --test loom
//! ```
//!
//! For each ordering and a few checks a sabotage feature turns it off, and a test must fail then:
//! `xtask/src/sabotage.rs` pairs them, and `cargo xtask test` runs each.
//!
//! # What the models do not check
//!
//! - **A peer that lies.** Both sides of a loom model are honest. What a hostile peer can do is left to
//!   atomics (nothing it writes is a data race of ours), the distance check, and its tests.
//! - **Size.** Rings of eight slots, two threads, a handful of descriptors, one wrap of a counter.
//! - **Every weak execution.** loom lets loads see old stores, but never a later one: no load is delayed behind
//!   a store that follows it. For slots a cell that reports unordered accesses makes up for that; for
//!   the handshake words nothing does.
//! - **Memory that is not write-back.** Release and Acquire order nothing on write-combining mappings, such as
//!   `resource2_wc` or a guest's mapping where the processor honours the guest's type. Nor is DMA modelled.
//! - **Packet bytes.** They are plain memory ordered by the same Release; non-temporal stores need a fence of
//!   their own.
//! - **Compilers and machines.** C guests, emulated processors (TCG) and the kernel's page tables are taken at
//!   their word.
//! - **Progress.** The models show that nothing wrong happens, not that something happens.
//! - **Time and the files of a crash.** The attach walk stands still in time. The crash model stops between
//!   stores of one thread and takes for granted that what was stored survives; its ledger has the fields and the
//!   order of stores of the real one, but is not it.
#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]

#[cfg(all(feature = "sabotage", not(debug_assertions), not(loom)))]
compile_error!("a sabotage feature weakens one line so that a test can prove it notices; never ship it");

#[cfg(target_endian = "big")]
compile_error!("the layout is little-endian; byte swapping is not written");

extern crate alloc;

// With loom's atomics nothing can be laid over memory.
#[cfg(not(loom))]
pub mod area;
pub mod attach;
mod copy;
#[cfg(all(test, not(loom)))]
mod crash;
pub mod desc;
pub mod endpoint;
pub mod layout;
pub mod reference;
pub mod ring;
mod sync;
