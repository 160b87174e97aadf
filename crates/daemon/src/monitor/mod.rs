//! Turns the host into what the core can be told.

pub mod config_file;
