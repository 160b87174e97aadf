//! How the messages between Hale's processes are written and read: field after field, numbers in little-endian, strings with
//! their NUL.

use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};

/// What can be written into a message. Nothing here allocates, unless the writer does.
pub trait Put {
    /// Appends it.
    ///
    /// # Errors
    ///
    /// The writer's: there is no room.
    fn put(&self, out: &mut impl Write) -> io::Result<()>;
}

/// What can be read from a message: copied or, strings and lists, pointing into it.
pub trait Take<'a>: Sized {
    /// Takes it off the front; `None` when the message is too short, or not one.
    fn take(reader: &mut Reader<'a>) -> Option<Self>;
}

/// What is left of a message, and of the descriptor beside it.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    fd: Option<OwnedFd>,
}

impl<'a> Reader<'a> {
    /// At the begin of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, fd: None }
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.bytes.split_first_chunk()?;
        self.bytes = tail;
        Some(*head)
    }
}

/// Reads a message with nothing left over; `None` when it is not one.
pub fn read<'a, T: Take<'a>>(message: &'a [u8], fd: Option<OwnedFd>) -> Option<T> {
    let mut reader = Reader { bytes: message, fd };
    let told = T::take(&mut reader)?;
    reader.bytes.is_empty().then_some(told)
}

/// Writes a message into this space, which has room for it.
pub fn write<'a>(message: &impl Put, space: &'a mut [u8]) -> &'a [u8] {
    let room = space.len();
    let mut rest = &mut *space;
    let _ = message.put(&mut rest);
    let length = room - rest.len();
    &space[..length]
}

/// Has a type written and read: a struct by its fields in order, an enum by its variants' numbers, each with its fields. With
/// `put` or `take`, one of both only. Behind `where`: the type's parameter.
macro_rules! wire {
    (struct $type:ty $(where $of:ident)? { $($field:tt),* $(,)? }) => {
        $crate::protocol::wire::wire!(put $type $(where $of)? { $($field),* });
        $crate::protocol::wire::wire!(take $type $(where $of)? { $($field),* });
    };
    (put $type:ty $(where $of:ident)? { $($field:tt),* $(,)? }) => {
        impl<'a $(, $of: $crate::protocol::wire::Put)?> $crate::protocol::wire::Put for $type {
            fn put(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
                $($crate::protocol::wire::Put::put(&self.$field, out)?;)*
                Ok(())
            }
        }
    };
    (take $type:ty $(where $of:ident)? { $($field:tt),* $(,)? }) => {
        impl<'a $(, $of: $crate::protocol::wire::Take<'a>)?> $crate::protocol::wire::Take<'a> for $type {
            fn take(reader: &mut $crate::protocol::wire::Reader<'a>) -> Option<Self> {
                Some(Self { $($field: $crate::protocol::wire::Take::take(reader)?),* })
            }
        }
    };
    (enum $type:ty $(where $of:ident)? {
        $($number:literal => $variant:ident $({ $($field:ident),* })? $(($value:ident))?),* $(,)?
    }) => {
        impl<'a $(, $of: $crate::protocol::wire::Put)?> $crate::protocol::wire::Put for $type {
            fn put(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
                match self {
                    $(Self::$variant $({ $($field),* })? $(($value))? => {
                        out.write_all(&[$number])?;
                        $($($crate::protocol::wire::Put::put($field, out)?;)*)?
                        $($crate::protocol::wire::Put::put($value, out)?;)?
                    })*
                }
                Ok(())
            }
        }
        impl<'a $(, $of: $crate::protocol::wire::Take<'a>)?> $crate::protocol::wire::Take<'a> for $type {
            fn take(reader: &mut $crate::protocol::wire::Reader<'a>) -> Option<Self> {
                Some(match <u8 as $crate::protocol::wire::Take<'_>>::take(reader)? {
                    $($number => Self::$variant
                        $({ $($field: $crate::protocol::wire::Take::take(reader)?),* })?
                        $(($crate::protocol::wire::wire!(@take $value reader)))?,)*
                    _ => return None,
                })
            }
        }
    };
    (@take $value:ident $reader:ident) => { $crate::protocol::wire::Take::take($reader)? };
}
pub(crate) use wire;

macro_rules! numbers {
    ($($number:ty)*) => { $(
        impl Put for $number {
            fn put(&self, out: &mut impl Write) -> io::Result<()> {
                out.write_all(&self.to_le_bytes())
            }
        }
        impl Take<'_> for $number {
            fn take(reader: &mut Reader<'_>) -> Option<Self> {
                reader.chunk().map(Self::from_le_bytes)
            }
        }
    )* };
}
numbers!(u8 u32 i32 u64);

impl Put for bool {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        u8::from(*self).put(out)
    }
}

impl Take<'_> for bool {
    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        u8::take(reader).map(|byte| byte != 0)
    }
}

impl<const N: usize> Put for [u8; N] {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(self)
    }
}

impl<const N: usize> Take<'_> for [u8; N] {
    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        reader.chunk()
    }
}

impl<T: Put + ?Sized> Put for &T {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        (**self).put(out)
    }
}

impl<T: Put> Put for Option<T> {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        self.is_some().put(out)?;
        self.as_ref().map_or(Ok(()), |some| some.put(out))
    }
}

impl<'a, T: Take<'a>> Take<'a> for Option<T> {
    fn take(reader: &mut Reader<'a>) -> Option<Self> {
        if bool::take(reader)? { T::take(reader).map(Some) } else { Some(None) }
    }
}

/// With its NUL: that is what execve(2) takes, so the reader need not copy it.
impl Put for CStr {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(self.to_bytes_with_nul())
    }
}

impl Put for CString {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        self.as_c_str().put(out)
    }
}

impl<'a> Take<'a> for &'a CStr {
    fn take(reader: &mut Reader<'a>) -> Option<Self> {
        let text = CStr::from_bytes_until_nul(reader.bytes).ok()?;
        reader.bytes = &reader.bytes[text.to_bytes_with_nul().len()..];
        Some(text)
    }
}

/// It goes beside the message, of which it takes nothing.
impl Put for BorrowedFd<'_> {
    fn put(&self, _out: &mut impl Write) -> io::Result<()> {
        Ok(())
    }
}

/// What came beside the message; `None` too when the reader could have no more descriptors.
impl Put for Option<OwnedFd> {
    fn put(&self, _out: &mut impl Write) -> io::Result<()> {
        Ok(())
    }
}

impl Take<'_> for Option<OwnedFd> {
    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        Some(reader.fd.take())
    }
}

/// A list is its length, then its items.
impl<T: Put> Put for [T] {
    fn put(&self, out: &mut impl Write) -> io::Result<()> {
        // A length beyond is beyond every bound that is checked before and after.
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(out)?;
        self.iter().try_for_each(|item| item.put(out))
    }
}

/// A list in a message: at most `MAX` items, all checked to be there.
#[derive(Debug)]
pub struct List<'a, T, const MAX: usize>(&'a [u8], PhantomData<T>);

impl<'a, T: Take<'a>, const MAX: usize> Take<'a> for List<'a, T, MAX> {
    fn take(reader: &mut Reader<'a>) -> Option<Self> {
        let count = usize::try_from(u32::take(reader)?).ok().filter(|&count| count <= MAX)?;
        let all = reader.bytes;
        for _ in 0..count {
            T::take(reader)?;
        }
        Some(Self(&all[..all.len() - reader.bytes.len()], PhantomData))
    }
}

impl<'a, T: Take<'a>, const MAX: usize> List<'a, T, MAX> {
    /// Its items.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T, MAX> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || T::take(&mut reader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_beyond_it() {
        #[derive(Debug, PartialEq)]
        struct All<'a>(u8, Option<u32>, Option<u64>, &'a CStr, [u8; 2], bool, i32);
        wire!(struct All<'a> { 0, 1, 2, 3, 4, 5, 6 });
        let all = All(1, None, Some(u64::MAX), c"three", [4, 5], true, i32::MIN);
        let mut space = [0; 64];
        let message = write(&all, &mut space).to_vec();
        assert_eq!(read(&message, None), Some(all));
        for end in 0..message.len() {
            assert_eq!(read::<All<'_>>(&message[..end], None), None, "cut at {end}");
        }
        assert_eq!(read::<All<'_>>(&[&message[..], &[0]].concat(), None), None);
        assert_eq!(read::<&CStr>(b"no end", None), None);
    }

    #[test]
    fn a_list_has_its_bound() {
        let mut space = [0; 64];
        let message = write(&[c"a", c""].as_slice(), &mut space);
        let list: List<'_, &CStr, 2> = read(message, None).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [c"a", c""]);
        assert!(read::<List<'_, &CStr, 1>>(message, None).is_none());
    }
}
