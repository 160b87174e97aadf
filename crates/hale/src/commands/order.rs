//! `hale start|stop|restart|pause|resume SERVICE`, `hale reload`

use crate::cli::Global;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::supervisor;
use crate::terminal::escape;
use hale_core::ids::Name;
use hale_daemon::api::view;
use std::io::Write;

/// Gives the order `verb` (as in the API's path, and what follows it) for `service` and waits until it is carried out.
pub fn run(verb: &str, service: &str, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let name = name(service)?;
    order(&format!("/v1/services/{name}/{verb}"), global, out)
}

/// Has the configuration read again and put in force.
pub fn reload(global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    order("/v1/reload", global, out)
}

fn order(target: &str, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let body = supervisor::order(global, target)?;
    let done: view::Done = supervisor::parse(&body)?;
    writeln!(out, "{}", escape(&done.text))?;
    Ok(Exit::Done)
}

/// A service's name from the command line, checked before it becomes part of a path.
pub fn name(text: &str) -> Result<Name, Failure> {
    Name::try_from(text)
        .map_err(|error| Failure::new(Exit::Usage, format!("{text:?} is not the name of a service")).because(error))
}
