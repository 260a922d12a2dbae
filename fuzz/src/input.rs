//! Splits the fuzzer's bytes into numbers, from front to back.

/// The bytes that are left; behind the end everything is zero.
#[derive(Clone, Copy, Debug)]
pub struct Input<'d> {
    rest: &'d [u8],
}

impl<'d> Input<'d> {
    /// All bytes.
    #[must_use]
    pub fn new(data: &'d [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next bytes, fewer at the end.
    pub fn take(&mut self, bytes: usize) -> &'d [u8] {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'d [u8] {
        self.take(self.rest.len())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// The next number.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// The next number.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next number.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next number.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// The next byte as a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u8) -> u8 {
        self.u8() % bound
    }

    /// One of a few things, by the next byte.
    pub fn pick<T: Copy>(&mut self, things: &[T]) -> Option<T> {
        let at = usize::from(self.u8()).checked_rem(things.len())?;
        things.get(at).copied()
    }
}
