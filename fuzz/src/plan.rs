//! What two configs differ in, as the switch's crate says it; see [`crate::switch`].

#[path = "../../host-switch/src/plan/difference.rs"]
pub mod difference;
#[path = "../../host-switch/src/plan/effect.rs"]
pub mod effect;
#[path = "../../host-switch/src/plan/objects.rs"]
pub mod objects;

pub use difference::Difference;
