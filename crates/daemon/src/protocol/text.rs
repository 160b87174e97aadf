//! Text on the stack: the guardian writes lines, paths and names without allocating.

use crate::protocol::wire::{List, Put, Reader, Take};
use std::fmt;
use std::io;

/// At most `N` bytes of text; what does not fit is cut.
#[derive(Debug, Clone, Copy)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    /// What was written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let taken = text.len().min(room.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

/// Without an end that was cut amidst a character.
impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.bytes().utf8_chunks().next().map_or("", |chunk| chunk.valid()))
    }
}

impl<const N: usize> Put for Text<N> {
    fn put(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.bytes().put(out)
    }
}

impl<const N: usize> Take<'_> for Text<N> {
    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        let mut text = Self::new();
        for byte in List::<'_, u8, N>::take(reader)?.iter() {
            text.bytes[text.length] = byte;
            text.length += 1;
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn what_does_not_fit_is_cut() {
        let mut text = Text::<6>::new();
        write!(text, "{}-long", 12).unwrap();
        assert_eq!(text.bytes(), b"12-lon");
    }
}
