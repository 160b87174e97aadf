//! `hale completions SHELL`

use crate::cli::Cli;
use crate::exit::Exit;
use crate::failure::Failure;
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use std::io::Write;

/// Prints the script.
pub fn run(shell: Shell, out: &mut impl Write) -> Result<Exit, Failure> {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "hale", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Done)
}
