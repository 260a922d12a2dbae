//! What a network function links: polls descriptor rings and processes packets in place.
