//! Names and numbers that identify things; each its own type, so that one cannot stand in for another.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;
use serde::{Deserialize, Serialize, Serializer};

/// The longest name of a service or a check, in bytes.
pub const NAME_MAX: usize = 63;

/// The name of a service or of one of its checks: `[a-z0-9][a-z0-9_.-]{0,62}`.
///
/// Cheap to clone: it stands in every record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(Arc<str>);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing.
    #[error("a name must not be empty")]
    Empty,
    /// More than [`NAME_MAX`] bytes.
    #[error("a name has at most {NAME_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character outside of `[a-z0-9_.-]`, or `_.-` at the start.
    #[error(
        "{0:?} is not allowed in a name at position {1}: use a to z, 0 to 9, and after the first character also `_`, `.` and `-`"
    )]
    BadCharacter(char, usize),
}

impl TryFrom<&str> for Name {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        let allowed = |at: usize, c: char| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || (at > 0 && matches!(c, '_' | '.' | '-'))
        };
        match text.char_indices().find(|&(at, c)| !allowed(at, c)) {
            Some((at, c)) => Err(NameError::BadCharacter(c, at)),
            None => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::try_from(text.as_str())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.to_string()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest name of a generation, in bytes: a path of the Nix store has at most 255 (`nix` limits its name to 211).
pub const GENERATION_MAX: usize = 255;

/// What names a generation: the hash of its content, or its path in a content-addressed store; never a number. Printable
/// ASCII without spaces.
///
/// Cheap to clone: it stands in many records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct GenerationId(Arc<str>);

impl Serialize for GenerationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl GenerationId {
    /// As it is.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve characters of its last part, for tables and sentences.
    #[must_use]
    pub fn short(&self) -> &str {
        let last = self.0.rsplit('/').next().unwrap_or_default();
        last.get(..12).unwrap_or(last)
    }
}

/// A hash of content, in hexadecimal.
impl From<[u8; 32]> for GenerationId {
    fn from(hash: [u8; 32]) -> Self {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or_default();
        let text: String = hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect();
        Self(text.into())
    }
}

/// Why a text is not a [`GenerationId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerationIdError {
    /// There is nothing.
    #[error("a generation's name must not be empty")]
    Empty,
    /// More than [`GENERATION_MAX`] bytes.
    #[error("a generation's name has at most {GENERATION_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A space, a control character, or one beyond ASCII.
    #[error(
        "{0:?} is not allowed in a generation's name at position {1}: it has printable ASCII characters without spaces"
    )]
    BadCharacter(char, usize),
}

impl TryFrom<&str> for GenerationId {
    type Error = GenerationIdError;

    fn try_from(text: &str) -> Result<Self, GenerationIdError> {
        if text.is_empty() {
            return Err(GenerationIdError::Empty);
        }
        if text.len() > GENERATION_MAX {
            return Err(GenerationIdError::TooLong(text.len()));
        }
        match text.char_indices().find(|(_, c)| !c.is_ascii_graphic()) {
            Some((at, c)) => Err(GenerationIdError::BadCharacter(c, at)),
            None => Ok(Self(text.into())),
        }
    }
}

impl TryFrom<String> for GenerationId {
    type Error = GenerationIdError;

    fn try_from(text: String) -> Result<Self, GenerationIdError> {
        Self::try_from(text.as_str())
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The next one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Counts the processes started for one service: the fence of every effect on it. The first is 1.
    Epoch
);
number!(
    /// One incident, unique for as long as the ledger lives.
    IncidentId
);
number!(
    /// One record of the core, in the order in which they were decided. Not the ledger's own count.
    RecordId
);
number!(
    /// One run of a check.
    ProbeId
);
number!(
    /// One descriptor that a service offers, for the order to keep it.
    OfferId
);
number!(
    /// One effect, for the executor's answers and the log.
    EffectId
);
number!(
    /// One request of a client, for the answer to it.
    RequestId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(Name::try_from("support-bot.v2_x").is_ok());
        assert_eq!(Name::try_from(""), Err(NameError::Empty));
        assert_eq!(Name::try_from("-bot"), Err(NameError::BadCharacter('-', 0)));
        assert_eq!(Name::try_from("Bot"), Err(NameError::BadCharacter('B', 0)));
        assert_eq!(Name::try_from("bot/../x"), Err(NameError::BadCharacter('/', 3)));
        assert_eq!(Name::try_from(alloc::vec!["x"; 64].concat().as_str()), Err(NameError::TooLong(64)));
    }
}
