//! Carries the core's effects out.

pub mod descriptors;
pub mod environment;
pub mod listen;
pub mod program;
pub mod tree;
pub mod user;
