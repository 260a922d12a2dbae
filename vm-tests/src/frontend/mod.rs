//! A hostile frontend: whoever connects to the socket of an untrusted VM's NIC, and the guest behind it.
//!
//! It says and writes what no QEMU and no driver would. Each [`trick::Trick`] is a bout: a session, or a queue that
//! is set up anew again and again. A switch lets a port that was refused something wait, up to a second, so a
//! frontend makes few attempts, and several NICs are attacked at a time.
//!
//! | module | noun |
//! |---|---|
//! | `wire` | the connection, and messages on it |
//! | `ram` | the guest's memory, with its rings |
//! | `guest` | a session with a guest behind it |
//! | `siege` | the rounds |
//! | `talk`, `tables`, `rings` | the tricks: with messages, with memory, with rings |

mod guest;
mod ram;
mod rings;
pub mod siege;
mod tables;
mod talk;
pub mod trick;
mod wire;
