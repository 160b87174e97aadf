//! Talks to the running supervisor and makes exit statuses of its answers.

use crate::cli::Global;
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::terminal::escape;
use hale_core::reason::Reason;
use hale_daemon::api::client::{self, Answer, ClientError};
use hale_daemon::api::problem::{Code, Problem};
use hale_daemon::api::sockets;
use http_body_util::Full;
use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Asks the supervisor for `target`; the body of its answer. Who may only give orders may ask, too: where the socket for
/// questions is not for this user, the other one is tried.
pub fn ask(global: &Global, target: &str) -> Result<Vec<u8>, Failure> {
    ask_somebody(global, target, false)
}

/// The same with what may take as long as a disk takes.
pub fn ask_long(global: &Global, target: &str) -> Result<Vec<u8>, Failure> {
    ask_somebody(global, target, true)
}

fn ask_somebody(global: &Global, target: &str, is_long: bool) -> Result<Vec<u8>, Failure> {
    let runtime = configuration::directories(global)?.runtime;
    match exchange(&sockets::read_path(&runtime), Method::GET, target, is_long) {
        Err(Unanswered::Client(denied @ ClientError::Denied(_))) => {
            exchange(&sockets::control_path(&runtime), Method::GET, target, is_long).map_err(|error| match error {
                // The group that is enough for asking is the one to tell of.
                Unanswered::Client(ClientError::Denied(_)) => no_answer(&denied),
                other => other.into(),
            })
        }
        other => other.map_err(Failure::from),
    }
}

/// Gives the supervisor the order `target`; the body of its answer.
pub fn order(global: &Global, target: &str) -> Result<Vec<u8>, Failure> {
    exchange(&control_socket(global)?, Method::POST, target, false).map_err(Failure::from)
}

/// The same with a body, and without a bound on how long it takes: the supervisor has its own.
pub fn give(global: &Global, target: &str, body: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let socket = control_socket(global)?;
    let given = client::give(&socket, Method::POST, target, json(body));
    accepted(run(given)?.map_err(|error| no_answer(&error))?)
}

/// Where orders go.
pub fn control_socket(global: &Global) -> Result<PathBuf, Failure> {
    Ok(sockets::control_path(&configuration::directories(global)?.runtime))
}

/// What an order says.
pub fn json(body: &impl Serialize) -> Full<Bytes> {
    // What commands send can always be written.
    Full::from(serde_json::to_vec(body).unwrap_or_default())
}

/// The body of an answer that is none of a problem.
pub fn accepted(answer: Answer) -> Result<Vec<u8>, Failure> {
    if answer.status == 200 { Ok(answer.body) } else { Err(problem(&answer)) }
}

/// Waits for what a command asks.
pub fn run<T>(asked: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, "cannot wait for an answer").because(error))?;
    Ok(runtime.block_on(asked))
}

/// Reads `body` as what the supervisor is expected to answer.
pub fn parse<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(Exit::Failed, "cannot understand the supervisor's answer").because(error).help(
            "the running supervisor may be of another version: compare `hale --version` with `hale status --json`",
        )
    })
}

/// Why an exchange brought nothing.
enum Unanswered {
    /// There was none, or it broke off.
    Client(ClientError),
    /// It could not begin, or the answer tells of a problem.
    Failed(Failure),
}

impl From<Unanswered> for Failure {
    fn from(why: Unanswered) -> Self {
        match why {
            Unanswered::Client(error) => no_answer(&error),
            Unanswered::Failed(failure) => failure,
        }
    }
}

fn exchange(socket: &Path, method: Method, target: &str, is_long: bool) -> Result<Vec<u8>, Unanswered> {
    let answer = run(async {
        match is_long {
            false => client::ask(socket, method, target).await,
            true => client::give(socket, method, target, Full::default()).await,
        }
    });
    accepted(answer.map_err(Unanswered::Failed)?.map_err(Unanswered::Client)?).map_err(Unanswered::Failed)
}

/// Why there is no answer, and what to do.
pub fn no_answer(error: &ClientError) -> Failure {
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

/// Why the answer is not what was asked for.
pub fn problem(answer: &Answer) -> Failure {
    let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body) else {
        return Failure::new(Exit::Failed, format!("the supervisor answered with HTTP status {}", answer.status));
    };
    if let Some(Reason::InvalidConfiguration { error }) = &problem.reason {
        // The mistakes as `hale validate` tells them, line by line.
        let mistakes: String = error.lines().map(|line| format!("{}\n", escape(line))).collect();
        let text = format!("{mistakes}error: not reloaded: the configuration before stays in force\n");
        return Failure::rendered(Exit::Configuration, text);
    }
    let exit = match problem.code {
        Code::Refused => Exit::Refused,
        Code::InvalidConfiguration => Exit::Configuration,
        Code::RolledBack => Exit::RolledBack,
        Code::Busy => Exit::Busy,
        Code::BadRequest => Exit::Usage,
        Code::NotFound
        | Code::MethodNotAllowed
        | Code::UnknownService
        | Code::ReadOnly
        | Code::Failed
        | Code::UnderWay => Exit::Failed,
    };
    let failure = Failure::new(exit, problem.detail);
    match problem.reason.as_ref().and_then(what_to_do) {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// What whoever is refused for this may do, where the reason does not say that itself.
fn what_to_do(reason: &Reason) -> Option<&'static str> {
    match reason {
        Reason::DataMovedOn { .. } => {
            Some("once the data are such that it can read them, `hale deploy --force` switches to it")
        }
        Reason::NotKnownGood { .. } | Reason::NoOlderGood => {
            Some("`hale generations` lists what is; `hale deploy` switches to any other, on probation")
        }
        Reason::RollbackNever => Some("`hale deploy` of the older one switches to it, on probation"),
        Reason::StoreNotSeen => {
            Some("`hale doctor` and Hale's own output say why, where that lasts; try again in a moment")
        }
        _ => None,
    }
}
