//! Descriptors that a service leaves with Hale for its next process (`FDSTORE=1`, sd_notify(3)): here by number and name,
//! while the host holds the descriptors themselves.

use crate::ids::{OfferId, RecordId};
use crate::time::Span;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// How many descriptors one service may leave. With [`LISTEN_MAX`](crate::policy::LISTEN_MAX) sockets before them they
/// become the lowest descriptors of its next process, below the 64 for which the kernel makes room at once; systemd's own
/// services with a store ask for 1 to 32, but for those that keep all devices or sessions of a machine.
pub const STORED_MAX: usize = 32;

/// How many descriptors all services may leave together. Guardian and supervisor hold each of them, beside some ten for
/// each service, and have at least 4,096 on most hosts.
pub const STORED_IN_ALL_MAX: usize = 1_024;

/// How many descriptors a service may leave at once, beyond one each [`STORES_EVERY`]: all that are possible, twice. Each is a
/// record when it comes and one when it goes, so a service that stores with each breath makes two records a second.
pub const STORES_AT_ONCE: u64 = 2 * STORED_MAX as u64;

/// See [`STORES_AT_ONCE`].
pub const STORES_EVERY: Span = Span::from_secs(1);

/// The longest name, in bytes (sd_notify(3)).
pub const FD_NAME_MAX: usize = 255;

/// A descriptor's name: at most [`FD_NAME_MAX`] bytes of ASCII without control characters and `:`; it may be empty.
/// What systemd allows, because it stands in `LISTEN_FDNAMES` as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FdName(Arc<str>);

/// The text is not a [`FdName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a descriptor's name has at most {FD_NAME_MAX} characters of ASCII, no control character and no `:`")]
pub struct FdNameError;

impl FdName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What systemd calls a descriptor that was given no name.
impl Default for FdName {
    fn default() -> Self {
        Self("stored".into())
    }
}

impl TryFrom<&str> for FdName {
    type Error = FdNameError;

    fn try_from(text: &str) -> Result<Self, FdNameError> {
        let allowed = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b':';
        if text.len() <= FD_NAME_MAX && text.bytes().all(allowed) { Ok(Self(text.into())) } else { Err(FdNameError) }
    }
}

impl TryFrom<String> for FdName {
    type Error = FdNameError;

    fn try_from(text: String) -> Result<Self, FdNameError> {
        Self::try_from(text.as_str())
    }
}

impl From<FdName> for String {
    fn from(name: FdName) -> Self {
        name.0.to_string()
    }
}

impl fmt::Display for FdName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A descriptor that a service wants to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The host's number of it; what no order has asked for when the step is done is closed.
    pub id: OfferId,
    /// Its name.
    pub name: FdName,
    /// Whether it is given up once its other end is gone (unless `FDPOLL=0`).
    pub watched: bool,
}

/// A descriptor that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The record that says so: no other descriptor ever has this number.
    pub id: RecordId,
    /// Its place in the guardian's store, among those of its service: below [`STORED_MAX`], used again once it is free.
    pub index: u8,
    /// Its name; several may have the same one.
    pub name: FdName,
    /// See [`Offer::watched`].
    pub watched: bool,
}

/// The lowest place that none of these has; `None`: all are taken.
#[must_use]
pub fn free_index(stored: &[Stored]) -> Option<u8> {
    let taken: Vec<u8> = stored.iter().map(|stored| stored.index).collect();
    (0..).take(STORED_MAX).find(|index| !taken.contains(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_systemd_takes() {
        for good in ["", "stored", "a b/c.1~", &"x".repeat(FD_NAME_MAX)] {
            assert_eq!(FdName::try_from(good).unwrap().as_str(), good);
        }
        for bad in ["a:b", "a\nb", "a\tb", "\u{7f}", "ü", &"x".repeat(FD_NAME_MAX + 1)] {
            assert_eq!(FdName::try_from(bad), Err(FdNameError), "{bad:?}");
        }
    }
}
