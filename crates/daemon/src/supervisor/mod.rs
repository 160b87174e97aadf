//! The supervisor: the loop of `hale_core` on the real host.

mod console;
mod evidence;
mod host;
pub mod inbox;
mod inheritance;
mod kept;
mod past;
mod prepare;
mod run;
mod service;

pub use run::main;
