//! Serves operators and endpoints; may block.

pub mod attachment;
pub mod protocol;
pub mod runtime_dir;
pub mod seqpacket;
pub mod status;
