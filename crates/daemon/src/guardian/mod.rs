//! The tiny process that is the parent of every service and the only one that reaps.

pub mod client;
pub mod protocol;
pub mod wire;
