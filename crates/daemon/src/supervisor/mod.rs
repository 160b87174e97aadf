//! The supervisor: the loop of `hale_core` on the real host.

pub mod inbox;
