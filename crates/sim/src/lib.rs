//! Deterministic simulator: the real core and the real driver over a fake host in virtual time.
//!
//! A seed means a world ([`scenario`]): services, policies, and how often each [`fault::Fault`] happens. While it
//! runs, every [`oracle`] judges one guarantee by what happened in the fake [`kernel`], never by what Hale believes.

pub mod clocks;
pub mod coverage;
pub mod crash;
pub mod crash_points;
pub mod death;
pub mod dependency;
pub mod fate;
pub mod fault;
pub mod generations;
pub mod host;
pub mod kernel;
pub mod left;
pub mod mutation;
pub mod oracle;
pub mod reload;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod settled;
pub mod shrink;
pub mod store;
pub mod swarm;
pub mod timeline;
