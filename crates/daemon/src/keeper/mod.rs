//! The tiny process that carries the services' output into files.

pub mod client;
pub mod log_file;
mod markers;
pub mod protocol;
mod rate;
mod report;
mod run;
mod service;
pub mod tail;

pub use run::main;
