//! All of Hale that touches the host. The folders show the loop: `monitor` turns the host into events,
//! `execute` carries effects out, `knowledge` keeps journal and ledger; `guardian` and `keeper` are the two
//! small processes beside the supervisor, `protocol` is what they say to each other, and `sys` holds the only unsafe code.

pub mod api;
pub mod execute;
pub mod generations;
pub mod guardian;
pub mod keeper;
pub mod knowledge;
pub mod monitor;
pub mod protocol;
pub mod supervisor;
pub mod sys;
