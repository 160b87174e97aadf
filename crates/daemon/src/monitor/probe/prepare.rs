//! From an exec check to what its process needs: everything that is read from files before it is made.

use super::Verdict;
use crate::execute::environment::{self, EnvironmentError, Given};
use crate::execute::program;
use crate::execute::user::{self, Identity};
use hale_core::policy::ServicePolicy;
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

/// Prepares one run of `command`, as `user` or as the service's user, in the service's directory and with its
/// variables; `tag` stands for the service's own (`HALE_SERVICE=…`).
/// May block on files. A user that is not known says nothing about the service.
pub(super) fn prepare(
    policy: &ServicePolicy,
    command: &[String],
    user: Option<&str>,
    tag: &str,
) -> Result<Prepared, Verdict> {
    let find = |name| user::lookup(name).map_err(|error| Verdict::unable(format_args!("user {name}: {error}")));
    let identity = user.or(policy.user.as_deref()).map(find).transpose()?;
    let wrong = |detail: String| Verdict::wrong(detail);
    let word = command.first().ok_or_else(|| Verdict::wrong("the check has no command"))?;
    let program =
        program::resolve(word, &policy.directory).map_err(|error| wrong(format!("program {word}: {error}")))?;
    let given = Given {
        variables: &policy.environment,
        files: &policy.environment_files,
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
    let directory = c_string(&policy.directory)?;
    Ok(Prepared { program, argv, environment, directory, identity, open_files_limit: policy.open_files_limit })
}
