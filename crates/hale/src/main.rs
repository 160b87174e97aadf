//! The one binary. Its hidden roles are told apart by the first argument, before anything else is built: each
//! of them is started often, or must stay small, and needs nothing of the command line's machinery.

mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    match first.as_deref().and_then(|word| word.to_str()) {
        Some("demo-service") => demo::main(arguments),
        Some(_) | None => ExitCode::from(2),
    }
}
