//! Enums whose variants are also the names of counters.

/// An enum that can name each of its variants and count by them.
pub trait Named: Copy + 'static {
    /// Every variant, in the order of [`Named::index`].
    const ALL: &'static [Self];

    /// The name an operator sees, `snake_case`.
    fn name(self) -> &'static str;

    /// The position in [`Named::ALL`].
    fn index(self) -> usize;
}

/// Declares an enum together with the names of its variants.
macro_rules! named_enum {
    ($(#[$meta:meta])* pub enum $Name:ident { $($(#[$variant_meta:meta])* $Variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $Name { $($(#[$variant_meta])* $Variant,)+ }

        impl $Name {
            /// How many variants there are.
            pub const COUNT: usize = <Self as $crate::named::Named>::ALL.len();

            /// The name an operator sees, `snake_case`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$Variant => $text,)+ }
            }
        }

        impl $crate::named::Named for $Name {
            const ALL: &'static [Self] = &[$(Self::$Variant,)+];

            fn name(self) -> &'static str {
                Self::name(self)
            }

            #[inline(always)]
            fn index(self) -> usize {
                self as usize
            }
        }

        impl core::fmt::Display for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use named_enum;
