//! Carries the core's effects out.

pub mod user;
