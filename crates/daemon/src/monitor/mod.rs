//! Turns the host into what the core can be told.

pub mod config_file;
pub mod examine;
pub mod features;
pub mod kernel_log;
pub mod memory;
pub mod notify;
pub mod pressure;
pub mod probe;
pub(crate) mod sock_diag;
pub(crate) mod text;
pub(crate) mod tree_sample;
pub mod watchdog_chain;
