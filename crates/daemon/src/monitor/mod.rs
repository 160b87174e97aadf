//! Turns the host into what the core can be told.

pub mod config_file;
pub mod notify;
pub mod probe;
mod text;
