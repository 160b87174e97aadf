//! Guardian and keeper as real processes: this binary is all of them, and the supervisor's place is taken by the
//! test.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, also outside of functions that are one")]

mod guardian;
mod hale;
mod keeper;

use hale_daemon::sys::strict::StrictAllocator;
use libtest_mimic::{Arguments, Trial};
use std::ffi::OsString;
use std::process::ExitCode;

/// The guardian must not allocate from its loop on.
#[global_allocator]
static ALLOCATOR: StrictAllocator = StrictAllocator::new();

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|arg| arg.to_str()) {
        Some("launch") => return hale::launch(&args.skip(1).collect::<Vec<_>>()),
        Some("guardian") => return hale::guardian(args.skip(1)),
        Some("keeper") => return hale_daemon::keeper::main(args.skip(1)),
        Some("supervisor") => return hale::supervisor(args.nth(3).unwrap_or_default()),
        Some(_) | None => {}
    }
    let tests = [guardian::TESTS, keeper::TESTS].concat();
    let trials = tests.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// A test by its name, in the form that names modules.
type Test = (&'static str, fn());

/// The words after the program's name.
type Words<'a> = &'a [OsString];
