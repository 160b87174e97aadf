//! The supervisor: the loop of `hale_core` on the real host.

pub mod client;
pub mod config_reader;
mod console;
mod early;
mod evidence;
mod examiner;
mod host;
pub mod inbox;
mod inheritance;
mod kept;
mod left;
mod past;
mod prepare;
mod run;
mod said;
mod service;
mod timer;

pub use run::main;
