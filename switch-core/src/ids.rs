//! Numbers of things, one type each. All but the buffer's are positions in file order of the configuration.

macro_rules! id {
    ($(#[$meta:meta])* $Name:ident($Inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $Name(pub $Inner);

        impl $Name {
            /// The same number, for indexing.
            #[inline(always)]
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl core::fmt::Display for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// A buffer, as an index into its domain's region.
    BufferIndex(u32)
);
id!(
    /// An endpoint: one NF thread in one VM or process. Below [`ENDPOINTS_MAX`].
    EndpointId(u16)
);
id!(
    /// A service.
    ServiceId(u16)
);
id!(
    /// A chain.
    ChainId(u16)
);
id!(
    /// A port.
    PortId(u16)
);
id!(
    /// A polling thread.
    LcoreId(u16)
);
id!(
    /// A security domain.
    DomainId(u16)
);
id!(
    /// An edge between two domains.
    EdgeId(u16)
);
id!(
    /// A list of services that are shown a packet.
    ObserversId(u16)
);

id!(
    /// What is made besides of a packet: copies that enter other chains.
    ReplicationId(u16)
);

/// Most endpoints of one switch.
pub const ENDPOINTS_MAX: usize = 1024;

impl ChainId {
    /// Of a packet that no chain carries, such as one that an NF made.
    pub const NONE: Self = Self(u16::MAX);
}

impl PortId {
    /// Of a packet that no port received, such as one that an NF made.
    pub const NONE: Self = Self(u16::MAX);
}

impl ObserversId {
    /// Of a packet that nobody is shown.
    pub const NONE: Self = Self(u16::MAX);
}

impl ReplicationId {
    /// Of a packet that is not copied.
    pub const NONE: Self = Self(u16::MAX);
}
