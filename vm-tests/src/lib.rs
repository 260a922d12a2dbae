//! Tests that drive the netvm binaries, namespaces and VMs from outside.
