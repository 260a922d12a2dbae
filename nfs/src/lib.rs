//! Network functions that run unchanged in a VM or as a host process.
