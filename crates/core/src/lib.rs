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

pub mod ids;
pub mod policy;
pub mod time;
