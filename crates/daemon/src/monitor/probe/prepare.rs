//! From an exec check to what its process needs: everything that is read from files before it is made.

use super::{Probed, Verdict};
use crate::execute::environment::{self, EnvironmentError, Given};
use crate::execute::program;
use crate::execute::user::{self, Identity};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::iter;

/// What a probe's process is made from.
pub(super) struct Prepared {
    pub(super) program: CString,
    pub(super) argv: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) directory: CString,
    pub(super) identity: Option<Identity>,
    pub(super) open_files_limit: Option<u64>,
}

/// What a probe's process shares with the service; a dependency has nothing of it.
struct Surroundings<'a> {
    user: Option<&'a str>,
    /// From where a relative program is taken.
    from: &'a str,
    directory: &'a str,
    environment: &'a BTreeMap<String, String>,
    environment_files: &'a [String],
    open_files_limit: Option<u64>,
}

impl<'a> Surroundings<'a> {
    fn of(probed: &'a Probed) -> Self {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match probed {
            Probed::Service { policy, root, .. } => {
                let (from, directory) = program::places(policy, root.as_deref());
                Self {
                    user: policy.user.as_deref(),
                    from,
                    directory,
                    environment: &policy.environment,
                    environment_files: &policy.environment_files,
                    open_files_limit: policy.open_files_limit,
                }
            }
            Probed::Dependency(_) => {
                let (from, directory) = ("/", "/");
                Self { user: None, from, directory, environment: &NONE, environment_files: &[], open_files_limit: None }
            }
        }
    }
}

/// Prepares one run of `command`, as `user` or as the service's user, in the service's directory and with its
/// variables; `tag` stands for the service's own (`HALE_SERVICE=…`).
/// May block on files. A user that is not known says nothing about the service.
pub(super) fn prepare(probed: &Probed, command: &[String], user: Option<&str>, tag: &str) -> Result<Prepared, Verdict> {
    let around = Surroundings::of(probed);
    let find = |name| user::lookup(name).map_err(|error| Verdict::unable(format_args!("user {name}: {error}")));
    let identity = user.or(around.user).map(find).transpose()?;
    let wrong = |detail: String| Verdict::wrong(detail);
    let word = command.first().ok_or_else(|| Verdict::wrong("the check has no command"))?;
    let program = program::resolve(word, around.from).map_err(|error| wrong(format!("program {word}: {error}")))?;
    let given = Given {
        variables: around.environment,
        files: around.environment_files,
        tag,
        notify_socket: None,
        watchdog: None,
        identity: identity.as_ref(),
    };
    let environment = environment::build(&given).map_err(|error| match &error {
        EnvironmentError::Read { source, .. } => Verdict::by_error(source, format_args!("environment: {error}")),
        EnvironmentError::NotAFile(_)
        | EnvironmentError::FileTooLarge(_)
        | EnvironmentError::Linked { .. }
        | EnvironmentError::Line { .. }
        | EnvironmentError::Variable(_)
        | EnvironmentError::TooLarge { .. } => Verdict::wrong(format_args!("environment: {error}")),
    })?;
    let c_string =
        |text: &String| CString::new(text.as_str()).map_err(|_| wrong(format!("{text:?} contains a NUL byte")));
    let arguments = command.iter().skip(1).map(c_string);
    let argv = iter::once(Ok(program.clone())).chain(arguments).collect::<Result<_, Verdict>>()?;
    let directory = c_string(&around.directory.to_owned())?;
    Ok(Prepared { program, argv, environment, directory, identity, open_files_limit: around.open_files_limit })
}
