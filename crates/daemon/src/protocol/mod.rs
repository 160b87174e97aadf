//! What Hale's processes say to each other: the supervisor's orders to the guardian, and the guardian's answers.
//!
//! One message is one packet of a `SOCK_SEQPACKET` pair. Both ends are the same binary, so there is no version.

mod event;
mod key;
mod order;
pub mod text;
pub mod timer;
pub mod wire;

pub use event::{Evidence, GuardianEvent, HostSignal, MAX_ANSWER_BYTES, SpawnFailure};
pub use key::{MAX_SERVICES, Slot, StoreKey};
pub use order::{Identity, MAX_GROUPS, MAX_ORDER_BYTES, MAX_PASSED, MAX_STRINGS, SpawnOrder};
pub(crate) use order::{Order, Spawn, read_address};
