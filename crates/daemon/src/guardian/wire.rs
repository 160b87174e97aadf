//! Little-endian numbers and NUL-terminated strings: the bytes of which all messages between Hale's processes are
//! made.

use std::ffi::CStr;

/// Appends to a message.
#[derive(Debug)]
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// The text with its terminating NUL: that is what execve(2) takes, so the reader need not copy it.
    pub fn text(&mut self, value: &CStr) {
        self.0.extend_from_slice(value.to_bytes_with_nul());
    }
}

/// Takes a message apart from its front. Every method gives `None` when the message is too short.
#[derive(Debug, Clone)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.bytes().map(|[byte]| byte)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A text up to its NUL.
    pub fn text(&mut self) -> Option<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.0).ok()?;
        self.0 = &self.0[text.to_bytes_with_nul().len()..];
        Some(text)
    }

    /// `Some(())` when nothing is left over.
    pub fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_beyond_it() {
        let mut bytes = Vec::new();
        let mut writer = Writer(&mut bytes);
        writer.u8(1);
        writer.u32(2);
        writer.text(c"three");
        writer.u64(4);
        let mut reader = Reader(&bytes);
        assert_eq!(
            (reader.u8(), reader.u32(), reader.text(), reader.u64()),
            (Some(1), Some(2), Some(c"three"), Some(4))
        );
        assert_eq!(reader.end(), Some(()));
        assert_eq!(reader.u8(), None);
        assert_eq!(Reader(b"no end").text(), None);
    }
}
