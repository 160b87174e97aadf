//! System calls that no safe crate offers: the only place with unsafe code.

pub mod child;
pub mod clock;
pub mod confine;
pub mod datagram;
pub mod fds;
pub mod idle;
pub mod packet;
pub mod parent;
pub mod pidfd;
pub mod signals;
pub mod strict;
pub mod users;
pub mod wait;
pub mod watch;
pub mod watchdog;
