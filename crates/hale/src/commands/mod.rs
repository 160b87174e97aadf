//! One file for each command.

pub mod completions;
pub mod deploy;
pub mod doctor;
pub mod explain;
pub mod generations;
pub mod grouped;
pub mod incident;
pub mod incidents;
pub mod ledger;
pub mod logs;
pub mod order;
pub mod quarantine;
pub mod rollback;
pub mod run;
pub mod schema;
pub mod status;
pub mod validate;
