//! Carries the core's effects out.

pub mod tree;
pub mod user;
