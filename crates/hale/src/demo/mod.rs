//! `hale demo-service NAME`: three small real services that can be broken on request, for `examples/hale.toml`
//! and for tests. `web` answers HTTP, `worker` sends heartbeats, `api` starts slowly and needs `web`.
//!
//! Each listens on 127.0.0.1 and can be broken there by anyone who reaches the port: for trying out only.

mod ask;
mod breakers;
mod memory;
mod notify;
mod start_failures;

use breakers::Mode;
use notify::Notify;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

/// How long `api` prepares itself before it listens: long enough to be seen in `hale status`.
const API_PREPARES: Duration = Duration::from_secs(1);
/// Time between two heartbeats where nobody asked for any by `WATCHDOG_USEC`.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);
/// How long a stray lives at most, so that one that nobody ends is not there for ever.
const STRAY_LIVES: Duration = Duration::from_secs(3_600);

const USAGE: &str = "\
usage: hale demo-service web [--port N]                       HTTP, default port 8701
       hale demo-service worker [--port N]                    heartbeats; control port 8702
       hale demo-service api [--port N] [--needs HOST:PORT]   starts slowly, default port 8703
       hale demo-service ask URL                              exits with 0 if URL answers 200
every service can be broken: curl http://127.0.0.1:PORT/break";

/// What the words after `hale demo-service` ask for.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    Service { kind: Kind, port: u16, needs: Option<String> },
    Ask { url: String },
    Stray,
    Hog { mib: u32 },
}

/// The three services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Web,
    Worker,
    Api,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Worker => "worker",
            Self::Api => "api",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Web => 8701,
            Self::Worker => 8702,
            Self::Api => 8703,
        }
    }
}

/// Runs the role that `arguments` (the words after `demo-service`) name, until it ends or is broken.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Option<Vec<String>> = arguments.map(|word| word.into_string().ok()).collect();
    let Some(role) = words.and_then(|words| parse(&words)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = match role {
        Role::Service { kind, port, needs } => serve(kind, port, needs.as_deref()),
        Role::Ask { url } => ask::ask(&url),
        Role::Stray => stray(),
        Role::Hog { mib } => {
            memory::take(mib, None);
            std::thread::sleep(STRAY_LIVES);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None`: not understood.
fn parse(words: &[String]) -> Option<Role> {
    let (first, mut rest) = words.split_first()?;
    let kind = match (first.as_str(), rest) {
        ("web", _) => Kind::Web,
        ("worker", _) => Kind::Worker,
        ("api", _) => Kind::Api,
        ("ask", [url]) => return Some(Role::Ask { url: url.clone() }),
        ("stray", []) => return Some(Role::Stray),
        ("hog", [mib]) => return Some(Role::Hog { mib: mib.parse().ok()? }),
        (_, _) => return None,
    };
    let (mut port, mut needs) = (kind.default_port(), None);
    while let [key, value, others @ ..] = rest {
        match key.as_str() {
            "--port" => port = value.parse().ok()?,
            "--needs" => needs = Some(value.clone()),
            _ => return None,
        }
        rest = others;
    }
    rest.is_empty().then_some(Role::Service { kind, port, needs })
}

/// Runs one service; returns only with an error, because a service ends by being broken or by a signal.
fn serve(kind: Kind, port: u16, needs: Option<&str>) -> io::Result<()> {
    let failures = start_failures::File::of(kind.name());
    if let Some(left) = failures.take_one()? {
        return Err(io::Error::other(format!("told to fail at start; {left} more after this one")));
    }
    if let Some(address) = needs {
        std::net::TcpStream::connect(address).map_err(|error| {
            io::Error::new(error.kind(), format!("{address}, which {} needs: {error}", kind.name()))
        })?;
    }
    let notify = Notify::from_environment();
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?.block_on(async {
        match kind {
            Kind::Api => tokio::time::sleep(API_PREPARES).await,
            Kind::Web | Kind::Worker => {}
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        println!("{} listens on {}", kind.name(), listener.local_addr()?);
        let mode = Mode::default();
        if let Some(notify) = notify {
            notify.send("READY=1");
            match kind {
                Kind::Worker => drop(tokio::spawn(beat(notify, mode.clone()))),
                Kind::Web | Kind::Api => {}
            }
        }
        axum::serve(listener, breakers::router(kind.name(), mode, failures)).await
    })
}

/// Sends heartbeats, twice as often as asked for, until the mode forbids it.
async fn beat(notify: Notify, mode: Mode) {
    let mut ticks = tokio::time::interval(notify::asked_interval().map_or(HEARTBEAT_EVERY, |within| within / 2));
    while mode.beats() {
        ticks.tick().await;
        notify.send("WATCHDOG=1");
    }
}

/// What `/break/stray` leaves behind: a process in a session of its own, that outlives its parent.
fn stray() -> io::Result<()> {
    rustix::process::setsid()?;
    std::thread::sleep(STRAY_LIVES);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Role> {
        parse(&text.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn roles_are_told_apart() {
        assert_eq!(words("web"), Some(Role::Service { kind: Kind::Web, port: 8701, needs: None }));
        let api = Role::Service { kind: Kind::Api, port: 0, needs: Some("localhost:8701".into()) };
        assert_eq!(words("api --needs localhost:8701 --port 0"), Some(api));
        assert_eq!(words("ask http://localhost/"), Some(Role::Ask { url: "http://localhost/".into() }));
        for wrong in ["", "database", "web --port", "web --port x", "web extra", "ask", "stray now"] {
            assert_eq!(words(wrong), None, "{wrong:?}");
        }
    }
}
