//! Ids of what a configuration declares: positions in file order.

use serde::Serialize;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub u16);

        impl $name {
            /// The position in the list of its kind.
            #[must_use]
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )+};
}

ids! {
    /// A domain, by its position among `[[domain]]`.
    DomainId
    /// A port, by its position among `[[port]]` with the `[[vm.nic]]` of all VMs behind them.
    PortId
    /// A service, by its position among `[[service]]`.
    ServiceId
    /// A chain, by its position among `[[chain]]` with the parts of paths behind untrusted VMs after them.
    ChainId
    /// A VM, by its position among `[[vm]]`.
    VmId
    /// A process, by its position among `[[process]]`.
    ProcessId
    /// An endpoint: counted through the VMs in file order, then through the processes.
    EndpointId
}
