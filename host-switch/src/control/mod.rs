//! Serves operators and endpoints; may block.

pub mod api;
pub mod area;
pub mod change;
pub mod conduct;
pub mod eal;
pub mod keeper;
pub mod lending;
pub mod nic;
pub mod openapi;
pub mod order;
pub mod out;
pub mod owner;
pub mod peer;
pub mod policy;
pub mod preflight;
pub mod protocol;
pub mod report;
pub mod request;
pub mod runtime_dir;
pub mod seqpacket;
pub mod served;
pub mod status;
pub mod stop;
pub mod switch;
pub mod uid;
pub mod violation;
