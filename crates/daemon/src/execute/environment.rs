//! A service's environment.

use super::user::Identity;
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;

/// What it is made of.
#[derive(Debug)]
pub struct Given<'a> {
    /// `environment`.
    pub variables: &'a BTreeMap<String, String>,
    /// `environment_files`.
    pub files: &'a [String],
    /// `HALE_SERVICE=…`.
    pub tag: &'a str,
    /// `NOTIFY_SOCKET`.
    pub notify_socket: Option<&'a Path>,
    /// `WATCHDOG_USEC`.
    pub watchdog: Option<Span>,
    /// Whom it runs as; `None`: as Hale.
    pub identity: Option<&'a Identity>,
}

/// Builds it.
///
/// # Errors
/// A file cannot be read.
pub fn build(given: &Given<'_>) -> std::io::Result<Vec<CString>> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for name in ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"] {
        if let Ok(value) = std::env::var(name) {
            all.insert(name.into(), value);
        }
    }
    all.extend(given.variables.clone());
    if let Some(path) = given.notify_socket {
        all.insert("NOTIFY_SOCKET".into(), path.to_string_lossy().into_owned());
    }
    if let Some(span) = given.watchdog {
        all.insert("WATCHDOG_USEC".into(), span.as_us().to_string());
    }
    let mut out = vec![CString::new(given.tag)?];
    for (name, value) in all {
        out.push(CString::new(format!("{name}={value}"))?);
    }
    Ok(out)
}
