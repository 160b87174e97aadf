//! From a service's policy to the bytes of its spawn order: program, arguments, environment, user.

use super::service::failure;
use crate::execute::environment::{self, Given};
use crate::execute::listen::ListenSocket;
use crate::execute::program;
use crate::execute::user::{self, Identity};
use hale_core::event::SpawnFailure;
use hale_core::policy::{ListenAddress, ServicePolicy};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What Hale itself adds to a service's environment.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// `HALE_SERVICE=…`.
    pub(super) tag: String,
    /// `NOTIFY_SOCKET`.
    pub(super) notify: Option<PathBuf>,
    /// The sockets that are bound already.
    pub(super) listening: Listening,
    /// The directory of its generation.
    pub(super) root: Option<PathBuf>,
}

/// A service's sockets by their names.
pub(super) type Listening = BTreeMap<String, Arc<ListenSocket>>;

/// All that a spawn order borrows.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) program: CString,
    pub(super) argv: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) directory: CString,
    pub(super) identity: Option<Identity>,
    pub(super) open_files_limit: Option<u64>,
    pub(super) listening: Listening,
}

/// Whether preparing touches files, which may hang: a search in PATH, a user, files of variables, Unix sockets.
pub(super) fn touches_files(policy: &ServicePolicy) -> bool {
    let searched = policy.command.first().is_some_and(|word| !word.contains('/'));
    let unix = policy.listen.values().any(|address| matches!(address, ListenAddress::Unix(_)));
    searched || unix || policy.user.is_some() || !policy.environment_files.is_empty()
}

/// Prepares one start. May block on files exactly when [`touches_files`] says so.
pub(super) fn prepare(policy: &ServicePolicy, paths: &Paths) -> Result<Prepared, SpawnFailure> {
    let identity = match &policy.user {
        Some(name) => {
            let found = user::lookup(name);
            Some(found.map_err(|error| failure("user", name, &error))?)
        }
        None => None,
    };
    let word = policy.command.first().map(String::as_str).unwrap_or_default();
    let (from, directory) = program::places(policy, paths.root.as_deref());
    let program = program::resolve(word, from).map_err(|error| failure("program", word, &error))?;
    let given = Given {
        variables: &policy.environment,
        files: &policy.environment_files,
        tag: &paths.tag,
        notify_socket: paths.notify.as_deref(),
        watchdog: policy.heartbeat_within(),
        identity: identity.as_ref(),
    };
    let environment = environment::build(&given).map_err(|error| failure("environment", "", &error))?;
    let text = |what: &str, text: &str| {
        CString::new(text).map_err(|_| failure(what, text, &io::Error::other("it contains a NUL byte")))
    };
    let mut argv = vec![program.clone()];
    for word in policy.command.iter().skip(1) {
        argv.push(text("arguments", word)?);
    }
    let directory = text("directory", directory)?;
    // Last: what could not be prepared is bound to nothing.
    let listening = listen(policy, &paths.listening, identity.as_ref())?;
    Ok(Prepared {
        program,
        argv,
        environment,
        directory,
        identity,
        open_files_limit: policy.open_files_limit,
        listening,
    })
}

/// Binds what is not bound yet, under whatever name, or whose file is gone.
fn listen(policy: &ServicePolicy, bound: &Listening, owner: Option<&Identity>) -> Result<Listening, SpawnFailure> {
    let socket = |(name, address): (&String, &ListenAddress)| {
        let is_it = |socket: &&Arc<ListenSocket>| socket.address() == address && socket.in_place();
        let socket = match bound.values().find(is_it) {
            Some(socket) => socket.clone(),
            None => {
                let made = ListenSocket::bind(address, owner);
                Arc::new(made.map_err(|error| failure("listen", &address.to_string(), &error))?)
            }
        };
        Ok((name.clone(), socket))
    };
    policy.listen.iter().map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of a service with this `[service.bot]`, which cannot be prepared.
    fn refusal(keys: &str) -> SpawnFailure {
        let source = hale_config::Source { name: "hale.toml".into(), text: format!("[service.bot]\n{keys}\n") };
        let defaults =
            hale_config::HostDefaults { state_dir: "/s".into(), runtime_dir: "/r".into(), log_dir: "/l".into() };
        let policy = hale_config::parse(&[source], &defaults, "/").unwrap().policy;
        let paths = Paths { tag: "HALE_SERVICE=0:bot".into(), notify: None, listening: Listening::new(), root: None };
        prepare(policy.services.values().next().unwrap(), &paths).unwrap_err()
    }

    #[test]
    fn what_is_missing_is_named_once() {
        let file = refusal("command = [\"/bin/true\"]\nenvironment_files = [\"/no/such/file\"]");
        assert_eq!(file.to_string(), "environment: file /no/such/file: No such file or directory (errno 2)");
        let program = refusal("command = [\"no-such-bot\"]").to_string();
        assert!(program.starts_with("program no-such-bot: not found in /"), "{program}");
        assert!(!program.contains("errno"), "the kernel was not asked: {program}");
        let user = refusal("command = [\"/bin/true\"]\nuser = \"nobody-of-this-name\"").to_string();
        assert!(user.starts_with("user nobody-of-this-name: there is no such user"), "{user}");
        let listen = refusal("command = [\"/bin/true\"]\nlisten = { http = \"192.0.2.1:80\" }");
        assert_eq!(listen.to_string(), "listen 192.0.2.1:80: Cannot assign requested address (errno 99)");
    }
}
