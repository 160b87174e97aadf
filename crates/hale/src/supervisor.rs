//! Talks to the running supervisor and makes exit statuses of its answers.

use crate::cli::Global;
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use hale_daemon::api::client::{self, Answer, ClientError};
use hale_daemon::api::problem::{Code, Problem};
use hale_daemon::api::sockets;
use hyper::Method;
use std::path::Path;

/// Asks the supervisor for `target`; the body of its answer.
pub fn ask(global: &Global, target: &str) -> Result<Vec<u8>, Failure> {
    let socket = sockets::read_path(&configuration::directories(global)?.runtime);
    exchange(&socket, Method::GET, target)
}

/// Gives the supervisor the order `target`; the body of its answer.
pub fn order(global: &Global, target: &str) -> Result<Vec<u8>, Failure> {
    let socket = sockets::control_path(&configuration::directories(global)?.runtime);
    exchange(&socket, Method::POST, target)
}

/// Reads `body` as what the supervisor is expected to answer.
pub fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(Exit::Failed, "cannot understand the supervisor's answer").because(error).help(
            "the running supervisor may be of another version: compare `hale --version` with `hale status --json`",
        )
    })
}

fn exchange(socket: &Path, method: Method, target: &str) -> Result<Vec<u8>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, "cannot wait for an answer").because(error))?;
    let answer = runtime.block_on(client::ask(socket, method, target)).map_err(|error| no_answer(&error))?;
    if answer.status == 200 { Ok(answer.body) } else { Err(problem(&answer)) }
}

fn no_answer(error: &ClientError) -> Failure {
    let exit = match error {
        ClientError::NoSupervisor(_) => Exit::NoSupervisor,
        ClientError::Denied(_) => Exit::Refused,
        ClientError::Late(_) => Exit::Busy,
        ClientError::Connect { .. } | ClientError::Exchange { .. } => Exit::Failed,
    };
    let help = error.help();
    let mut failure = Failure::new(exit, error.to_string());
    if let Some(source) = std::error::Error::source(error) {
        failure = failure.because(source.to_string());
    }
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn problem(answer: &Answer) -> Failure {
    let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body) else {
        return Failure::new(Exit::Failed, format!("the supervisor answered with HTTP status {}", answer.status));
    };
    let exit = match problem.code {
        Code::Refused => Exit::Refused,
        Code::Busy => Exit::Busy,
        Code::NotFound | Code::UnknownService | Code::ReadOnly | Code::Failed | Code::UnderWay => Exit::Failed,
    };
    Failure::new(exit, problem.detail)
}
