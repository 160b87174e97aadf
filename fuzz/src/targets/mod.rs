//! The targets, one file for each; a new one gets two lines here and a folder in `corpus/`.

mod archive;
mod config;
mod grpc;
mod http;
mod ledger;
mod metrics;
mod notify;
mod traces;
mod wire;

/// What is done with one input; a panic is a finding.
pub type Target = fn(&[u8]);

/// Each with its name, which is that of its file and of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("archive", archive::run),
    ("config", config::run),
    ("grpc", grpc::run),
    ("http", http::run),
    ("ledger", ledger::run),
    ("metrics", metrics::run),
    ("notify", notify::run),
    ("traces", traces::run),
    ("wire", wire::run),
];
