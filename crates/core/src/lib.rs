//! The brain of Hale: events in, records and effects out, nothing else.
//!
//! Pure: no clock, file, socket, thread, float, hash-ordered map or unseeded randomness. One function,
//! [`step::step`], is the whole brain; [`driver::run`] is the loop around it, generic over a
//! [`driver::Host`], so that the simulator runs the same one.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod analyze;
pub mod descriptor;
pub mod driver;
pub mod effect;
pub mod event;
pub mod examination;
pub mod hardware;
pub mod ids;
pub mod incident;
pub mod invariant;
pub mod memory;
pub mod plan;
pub mod policy;
pub mod reason;
pub mod record;
pub mod safeswitch;
pub mod status;
pub mod step;
pub mod text;
pub mod time;
pub mod world;
