//! Serves operators and endpoints; may block.
