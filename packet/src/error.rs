//! Why bytes are not the header that was looked for.

/// What a view or a writer objects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Fewer bytes than the header has.
    Truncated {
        /// Which header.
        header: &'static str,
        /// Bytes that it needs.
        needed_bytes: usize,
        /// Bytes that there are.
        present_bytes: usize,
    },
    /// A length field that contradicts the header or the bytes behind it.
    Length {
        /// Which header.
        header: &'static str,
        /// What the field says.
        claimed_bytes: usize,
        /// Least that is possible.
        min_bytes: usize,
        /// Most that is possible.
        max_bytes: usize,
    },
    /// A field that says this is another protocol, version or variant.
    Kind {
        /// Which header.
        header: &'static str,
        /// What the field says.
        found: u16,
        /// What it would have to say.
        wanted: u16,
    },
}

impl core::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated { header, needed_bytes, present_bytes } => {
                write!(f, "{present_bytes} bytes where {header} needs {needed_bytes}")
            }
            Self::Length { header, claimed_bytes, min_bytes, max_bytes } => {
                write!(f, "{header} claims {claimed_bytes} bytes, {min_bytes} to {max_bytes} are possible")
            }
            Self::Kind { header, found, wanted } => {
                write!(f, "{found:#x} where {header} has {wanted:#x}")
            }
        }
    }
}

impl core::error::Error for HeaderError {}
