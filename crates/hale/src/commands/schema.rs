//! `hale schema`

use crate::exit::Exit;
use crate::failure::Failure;
use std::io::Write;

/// Prints the JSON Schema of `hale.toml`.
pub fn run(out: &mut impl Write) -> Result<Exit, Failure> {
    writeln!(out, "{:#}", hale_config::schema())?;
    Ok(Exit::Done)
}
