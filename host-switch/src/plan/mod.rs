//! Turns a checked config into everything concrete that the switch starts with.
