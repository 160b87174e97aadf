//! The whole of Hale as an operator has it: the real binary, real services, real cgroups.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it like the test itself")]

mod blame;
mod confirm;
mod dependencies;
mod evidence;
mod explain;
mod fdstore;
mod field;
mod full_disk;
mod guardian_lost;
mod harness;
mod hung_disk;
mod init;
mod lifecycle;
mod listen;
mod measured;
mod memory;
mod needs_nginx;
mod needs_postgres;
mod needs_python;
mod needs_redis;
mod needs_schemathesis;
mod needs_systemd;
mod nobody;
mod notify;
mod observe;
mod pausing;
mod planned;
mod reload;
mod replaced;
mod stopped;
mod survivors;
mod tree_checks;
mod writers;
