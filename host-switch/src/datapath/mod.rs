//! Moves packets between ports and endpoints; never blocks.
