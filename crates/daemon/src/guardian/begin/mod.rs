//! What is done once, before the guardian's loop: here memory may be allocated and files be waited for.

pub(super) mod adopt;
pub(super) mod hardware;
pub mod init;
pub mod launch;
pub mod lock;
pub(super) mod start;
mod systemd;
