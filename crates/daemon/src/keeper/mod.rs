//! The tiny process that carries the services' output into files.

pub mod client;
pub mod protocol;
