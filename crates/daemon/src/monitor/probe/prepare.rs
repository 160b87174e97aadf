//! From an exec check to what its process needs: everything that is read from files before it is made.

use crate::execute::user::{self, Identity};
use hale_core::policy::ServicePolicy;
use std::ffi::CString;

/// What a probe's process is made from.
pub(super) struct Prepared {
    pub(super) program: CString,
    pub(super) argv: Vec<CString>,
    pub(super) environment: Vec<CString>,
    pub(super) directory: CString,
    pub(super) identity: Option<Identity>,
    pub(super) open_files_limit: Option<u64>,
}

/// Where programs are looked for when neither the service nor Hale has a PATH (execvp(3)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Prepares one run of `command`, as `user` or as the service's user, in the service's directory and environment.
/// May block on files. Errors are lines for people.
pub(super) fn prepare(
    policy: &ServicePolicy,
    command: &[String],
    user: Option<&str>,
    tag: &str,
) -> Result<Prepared, String> {
    let identity = user.or(policy.user.as_deref()).map(user::lookup).transpose().map_err(|error| error.to_string())?;
    let c_string =
        |text: String| CString::new(text).map_err(|error| format!("{error}: {:?}", error.clone().into_vec()));
    let path = policy.environment.get("PATH").cloned().or_else(|| std::env::var("PATH").ok());
    let path = path.unwrap_or_else(|| DEFAULT_PATH.to_owned());
    let word = command.first().ok_or("the check has no command")?;
    let program = if word.contains('/') {
        word.clone()
    } else {
        let mut places = path.split(':').map(|folder| format!("{folder}/{word}"));
        places
            .find(|place| rustix::fs::access(place, rustix::fs::Access::EXEC_OK).is_ok())
            .ok_or_else(|| format!("{word} is in no folder of PATH={path}"))?
    };
    let mut variables = policy.environment.clone();
    variables.insert(String::from("PATH"), path);
    variables.insert(String::from("HALE_SERVICE"), tag.to_owned());
    let environment = variables.into_iter().map(|(name, value)| c_string(format!("{name}={value}")));
    Ok(Prepared {
        program: c_string(program)?,
        argv: command.iter().cloned().map(c_string).collect::<Result<_, _>>()?,
        environment: environment.collect::<Result<_, _>>()?,
        directory: c_string(policy.directory.clone())?,
        identity,
        open_files_limit: policy.open_files_limit,
    })
}
