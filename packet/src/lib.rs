//! Packet header views and checksums that the switch and the network functions share.
