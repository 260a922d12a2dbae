//! Safe wrapper of the parts of DPDK that the switch uses.
