//! The environment that a service is started with.

use super::program::DEFAULT_PATH;
use super::user::Identity;
use crate::protocol::MAX_STRINGS;
use hale_core::descriptor::STORED_MAX;
use hale_core::time::Span;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, readlink};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The most that the whole environment may take, in bytes: three quarters of an order to the guardian, so that
/// command and paths fit, too.
pub const ENVIRONMENT_BYTES_MAX: usize = 96 * 1024;

/// The largest environment file, in bytes: it could not fill the environment with more.
pub const FILE_BYTES_MAX: usize = ENVIRONMENT_BYTES_MAX;

/// Variables that a service gets as Hale has them, when it runs as the same user.
const OWN_USER: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

/// What an environment is made of.
#[derive(Debug)]
pub struct Given<'a> {
    /// The service's `environment`.
    pub variables: &'a BTreeMap<String, String>,
    /// The service's `environment_files`.
    pub files: &'a [String],
    /// [`Trees::environment_tag`](super::tree::Trees::environment_tag).
    pub tag: &'a str,
    /// The path of its notify socket (sd_notify(3)), if it has one.
    pub notify_socket: Option<&'a Path>,
    /// `WATCHDOG_USEC` (sd_watchdog_enabled(3)), if heartbeats are expected of it.
    pub watchdog: Option<Span>,
    /// The user it runs as; `None`: Hale's own.
    pub identity: Option<&'a Identity>,
}

/// Why there is no environment. `Display` follows the word "environment" and a colon.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A file cannot be read.
    #[error("file {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A pipe, a device, a directory.
    #[error("file {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// See [`FILE_BYTES_MAX`].
    #[error("file {} is larger than {FILE_BYTES_MAX} bytes", .0.display())]
    FileTooLarge(PathBuf),
    /// The service's user could have made the link, to be given what it may not read.
    #[error(
        "file {} leads through a symbolic link to {}, which is not {user}'s own: write that path instead",
        path.display(), real.display()
    )]
    Linked {
        /// As configured.
        path: PathBuf,
        /// Where it leads.
        real: PathBuf,
        /// The service's user.
        user: String,
    },
    /// The line itself is not shown: it may be a secret.
    #[error("file {}, line {line}: {mistake}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1 on.
        line: usize,
        /// What is wrong.
        mistake: Mistake,
    },
    /// A variable of `environment` that execve(2) cannot pass on.
    #[error("the variable {0:?} has an empty name, `=` in its name, or a NUL character")]
    Variable(String),
    /// See [`ENVIRONMENT_BYTES_MAX`] and [`MAX_STRINGS`].
    #[error("it has {count} variables and {bytes} bytes; {MAX_STRINGS} and {ENVIRONMENT_BYTES_MAX} are possible")]
    TooLarge {
        /// How many variables.
        count: usize,
        /// All of them, with names and ends.
        bytes: usize,
    },
}

/// What is wrong with one line of an environment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// No `=`.
    #[error("no `=`: a line is NAME=value, or a comment that starts with `#`")]
    NoEquals,
    /// Not `[A-Za-z_][A-Za-z0-9_]*`.
    #[error("the name before `=` may have letters, digits and `_` only, and no digit first")]
    Name,
    /// `export NAME=value`.
    #[error("leave `export` away: this is not a shell script")]
    Export,
    /// An opening quote, and no closing one.
    #[error("the quote is not closed on the same line")]
    OpenQuote,
    /// `"a" b`.
    #[error("something follows the closing quote")]
    AfterQuote,
    /// NUL cannot be part of an environment.
    #[error("it contains a NUL character")]
    Nul,
}

/// The whole environment, as execve(2) takes it. Later ones win: `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL` of the
/// service's user and Hale's `LANG`; the service's `environment`; its `environment_files` in order; what Hale tells.
/// Nothing else of Hale's own environment is passed on. Reads files, so it may block where a file system hangs.
///
/// # Errors
///
/// See [`EnvironmentError`]: nothing is left out silently.
pub fn build(given: &Given<'_>) -> Result<Vec<CString>, EnvironmentError> {
    let mut variables = base(given.identity, |name| std::env::var_os(name));
    variables.extend(given.variables.iter().map(|(name, value)| (name.into(), value.into())));
    for path in given.files {
        read_file(Path::new(path), given.identity, &mut variables)?;
    }
    tell(given, &mut variables);
    finish(variables)
}

type Variables = BTreeMap<OsString, OsString>;

fn base(identity: Option<&Identity>, own: impl Fn(&str) -> Option<OsString>) -> Variables {
    let mut variables = Variables::new();
    variables.insert("PATH".into(), own("PATH").unwrap_or_else(|| DEFAULT_PATH.into()));
    variables.extend(own("LANG").map(|value| ("LANG".into(), value)));
    match identity {
        Some(user) => variables.extend([
            ("HOME".into(), user.home.clone().into()),
            ("USER".into(), (&user.name).into()),
            ("LOGNAME".into(), (&user.name).into()),
            ("SHELL".into(), user.shell.clone().into()),
        ]),
        None => variables.extend(OWN_USER.iter().filter_map(|name| Some(((*name).into(), own(name)?)))),
    }
    variables
}

/// Hale has the last word: a service that could change its tag would leave its tree.
fn tell(given: &Given<'_>, variables: &mut Variables) {
    variables.extend(given.tag.split_once('=').map(|(name, value)| (name.into(), value.into())));
    variables.extend(given.notify_socket.map(|path| ("NOTIFY_SOCKET".into(), path.into())));
    // Whether, and how many, descriptors it can leave (`FDSTORE` in systemd.exec(5)).
    variables.extend(given.notify_socket.map(|_| ("FDSTORE".into(), STORED_MAX.to_string().into())));
    // What it gets is told when it is known; see `passed`.
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        variables.remove(OsStr::new(name));
    }
    variables.extend(given.watchdog.map(|within| ("WATCHDOG_USEC".into(), within.as_us().to_string().into())));
}

/// What tells a process of the descriptors that it gets (sd_listen_fds(3)), by their names. `LISTEN_PID` it adds itself:
/// nobody else knows its id before it runs.
#[must_use]
pub fn passed(names: &[&str]) -> [CString; 2] {
    let variable = |text: String| CString::new(text).unwrap_or_default();
    [variable(format!("LISTEN_FDS={}", names.len())), variable(format!("LISTEN_FDNAMES={}", names.join(":")))]
}

fn finish(variables: Variables) -> Result<Vec<CString>, EnvironmentError> {
    let mut bytes = 0;
    let mut environment = Vec::with_capacity(variables.len());
    for (name, value) in variables {
        let wrong = || EnvironmentError::Variable(name.to_string_lossy().into_owned());
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(wrong());
        }
        let mut entry = name.clone().into_vec();
        entry.push(b'=');
        entry.extend(value.as_bytes());
        bytes += entry.len() + 1;
        environment.push(CString::new(entry).map_err(|_| wrong())?);
    }
    if environment.len() > MAX_STRINGS || bytes > ENVIRONMENT_BYTES_MAX {
        return Err(EnvironmentError::TooLarge { count: environment.len(), bytes });
    }
    Ok(environment)
}

/// The values in files of variables, as far as they can be read: what must not be told.
#[must_use]
pub fn secrets(files: &[String]) -> Vec<String> {
    let mut variables = Variables::default();
    for file in files {
        // The service itself cannot be started without it, and says why.
        let _ = read_file(Path::new(file), None, &mut variables);
    }
    variables.into_values().map(|value| value.to_string_lossy().into_owned()).collect()
}

fn read_file(path: &Path, identity: Option<&Identity>, into: &mut Variables) -> Result<(), EnvironmentError> {
    let failed = |source| EnvironmentError::Read { path: path.to_owned(), source };
    let file = open_file(path, identity)?;
    let mut bytes = Vec::new();
    File::from(file).take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(EnvironmentError::FileTooLarge(path.to_owned()));
    }
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let wrong = |mistake| EnvironmentError::Line { path: path.to_owned(), line: at + 1, mistake };
        into.extend(parse_line(line).map_err(wrong)?);
    }
    Ok(())
}

/// Opens it without waiting for the writer of a pipe, and without being led to somebody's secret: a symbolic link is
/// followed for Hale's own user, or to a file that is the service's user's own.
fn open_file(path: &Path, identity: Option<&Identity>) -> Result<OwnedFd, EnvironmentError> {
    let failed = |errno: Errno| EnvironmentError::Read { path: path.to_owned(), source: errno.into() };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let other = identity.filter(|user| user.uid != rustix::process::geteuid().as_raw());
    let direct = other.map(|_| openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS));
    let (file, linked) = match direct {
        Some(Ok(file)) => (file, None),
        Some(Err(Errno::LOOP)) => (open(path, flags, Mode::empty()).map_err(failed)?, other),
        Some(Err(errno)) => return Err(failed(errno)),
        None => (open(path, flags, Mode::empty()).map_err(failed)?, None),
    };
    let stat = fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(EnvironmentError::NotAFile(path.to_owned()));
    }
    if let Some(user) = linked.filter(|user| user.uid != stat.st_uid) {
        let real = readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new()).map_err(failed)?;
        let real = PathBuf::from(OsString::from_vec(real.into_bytes()));
        return Err(EnvironmentError::Linked { path: path.to_owned(), real, user: user.name.clone() });
    }
    Ok(file)
}

/// One line, as systemd.exec(5) has them under `EnvironmentFile=`, less what makes a file hard to read:
///
/// - Empty lines, and those whose first character is `#` or `;`, say nothing.
/// - Blanks around name and value are dropped, a carriage return at the end, too.
/// - `'value'`: everything between the quotes, as it is.
/// - `"value"`: the same, but `\"`, `\\`, `` \` `` and `\$` stand for the second character.
/// - Otherwise the value is as it is, with `#`, `\`, quotes and `$` in it. There are no continued lines, and nothing
///   is replaced.
fn parse_line(line: &[u8]) -> Result<Option<(OsString, OsString)>, Mistake> {
    let line = line.trim_ascii();
    if matches!(line.first(), None | Some(b'#' | b';')) {
        return Ok(None);
    }
    let equals = line.iter().position(|&byte| byte == b'=').ok_or(Mistake::NoEquals)?;
    let (name, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
    if name.starts_with(b"export ") {
        return Err(Mistake::Export);
    }
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if !name.iter().all(is_name) || name.first().is_none_or(u8::is_ascii_digit) {
        return Err(Mistake::Name);
    }
    if value.contains(&0) {
        return Err(Mistake::Nul);
    }
    let value = match value.split_first() {
        Some((&quote @ (b'\'' | b'"'), rest)) => unquote(quote, rest)?,
        Some(_) | None => value.to_vec(),
    };
    Ok(Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value))))
}

fn unquote(quote: u8, rest: &[u8]) -> Result<Vec<u8>, Mistake> {
    let mut value = Vec::new();
    let mut bytes = rest.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte == quote {
            return if bytes.len() == 0 { Ok(value) } else { Err(Mistake::AfterQuote) };
        }
        if byte == b'\\' && quote == b'"' {
            match bytes.next().ok_or(Mistake::OpenQuote)? {
                escaped @ (b'"' | b'\\' | b'`' | b'$') => value.push(escaped),
                other => value.extend([b'\\', other]),
            }
        } else {
            value.push(byte);
        }
    }
    Err(Mistake::OpenQuote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn parsed(line: &str) -> Result<Option<(String, String)>, Mistake> {
        let text = |os: OsString| os.into_string().unwrap();
        Ok(parse_line(line.as_bytes())?.map(|(name, value)| (text(name), text(value))))
    }

    fn value(line: &str) -> String {
        parsed(line).unwrap().unwrap().1
    }

    #[test]
    fn lines_say_what_they_look_like() {
        assert_eq!(parsed("NAME=value"), Ok(Some(("NAME".into(), "value".into()))));
        assert_eq!(parsed("  _a1 = two words \r"), Ok(Some(("_a1".into(), "two words".into()))));
        assert_eq!(value("A="), "");
        assert_eq!(value("A=b=c"), "b=c");
        assert_eq!(value(r#"A=x # no 'comment' "here" \ $HOME"#), r#"x # no 'comment' "here" \ $HOME"#);
        assert_eq!(value(r"A=' it is \n $X '"), r" it is \n $X ");
        assert_eq!(value(r#"A="a \"b\" \\ \$ \` \n""#), r#"a "b" \ $ ` \n"#);
        for nothing in ["", "   ", "# A=b", "; A=b"] {
            assert_eq!(parsed(nothing), Ok(None));
        }
    }

    #[test]
    fn wrong_lines_are_mistakes() {
        let cases = [
            ("NAME", Mistake::NoEquals),
            ("=x", Mistake::Name),
            ("1A=x", Mistake::Name),
            ("A-B=x", Mistake::Name),
            ("A B=x", Mistake::Name),
            ("export A=x", Mistake::Export),
            ("A='x", Mistake::OpenQuote),
            (r#"A="x\""#, Mistake::OpenQuote),
            (r#"A="x\"#, Mistake::OpenQuote),
            ("A='x' y", Mistake::AfterQuote),
            ("A=x\0y", Mistake::Nul),
        ];
        for (line, mistake) in cases {
            assert_eq!(parsed(line), Err(mistake), "{line:?}");
        }
    }

    #[test]
    fn a_mistake_is_found_by_file_and_line_and_shows_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        fs::write(&path, "A=1\n\n# comment\nsk-secret\n").unwrap();
        let text = read_file(&path, None, &mut Variables::new()).unwrap_err().to_string();
        assert!(text.contains(&format!("{}, line 4", path.display())) && !text.contains("sk-secret"), "{text}");
    }

    #[test]
    fn what_is_no_file_of_moderate_size_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &Path| read_file(path, None, &mut Variables::new());
        assert!(matches!(read(&dir.path().join("missing")), Err(EnvironmentError::Read { .. })));
        assert!(matches!(read(dir.path()), Err(EnvironmentError::NotAFile(_))));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(read(&pipe), Err(EnvironmentError::NotAFile(_))));
        let large = dir.path().join("large");
        fs::write(&large, "A=1\n".repeat(FILE_BYTES_MAX / 4 + 1)).unwrap();
        assert!(matches!(read(&large), Err(EnvironmentError::FileTooLarge(_))));
    }

    #[test]
    fn later_ones_win_and_hale_has_the_last_word() {
        let user = Identity {
            name: "bot".into(),
            uid: rustix::process::geteuid().as_raw(),
            gid: 0,
            groups: Vec::new(),
            home: "/srv/bot".into(),
            shell: "/bin/sh".into(),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let given = Given {
            variables: &BTreeMap::from([("LANG".into(), "C".into()), ("A".into(), "environment".into())]),
            files: &[
                file("one", "A=one\nB=one\nHALE_SERVICE=other:x\nPATH=/bin"),
                file("two", "B=two\nNOTIFY_SOCKET=/dev/null\nLISTEN_PID=1\nLISTEN_FDS=7"),
            ],
            tag: "HALE_SERVICE=0:bot",
            notify_socket: Some(Path::new("/run/hale/notify/bot")),
            watchdog: Some(Span::from_us(5)),
            identity: Some(&user),
        };
        let environment = build(&given).unwrap();
        let lines: Vec<&str> = environment.iter().map(|entry| entry.to_str().unwrap()).collect();
        assert_eq!(
            lines,
            [
                "A=one",
                "B=two",
                "FDSTORE=32",
                "HALE_SERVICE=0:bot",
                "HOME=/srv/bot",
                "LANG=C",
                "LOGNAME=bot",
                "NOTIFY_SOCKET=/run/hale/notify/bot",
                "PATH=/bin",
                "SHELL=/bin/sh",
                "USER=bot",
                "WATCHDOG_USEC=5",
            ]
        );
        assert_eq!(passed(&["http", "", "a b"]), [c"LISTEN_FDS=3", c"LISTEN_FDNAMES=http::a b"].map(CString::from));
    }

    #[test]
    fn of_hales_own_environment_little_is_passed_on() {
        let own = |name: &str| Some(OsString::from(format!("own {name}"))).filter(|_| name != "PATH");
        let variables = base(None, own);
        let names: Vec<_> = variables.keys().map(|name| name.to_str().unwrap()).collect();
        assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"]);
        assert_eq!(variables[&OsString::from("HOME")], "own HOME");
        assert_eq!(variables[&OsString::from("PATH")], DEFAULT_PATH);
    }

    #[test]
    fn an_environment_that_cannot_be_passed_on_is_refused() {
        let with = |name: &str, value: &str| finish(Variables::from([(name.into(), value.into())]));
        assert!(matches!(with("A=B", "x"), Err(EnvironmentError::Variable(_))));
        assert!(matches!(with("", "x"), Err(EnvironmentError::Variable(_))));
        assert!(matches!(with("A", "x\0y"), Err(EnvironmentError::Variable(_))));
        assert!(matches!(with("A", &"x".repeat(ENVIRONMENT_BYTES_MAX)), Err(EnvironmentError::TooLarge { .. })));
    }

    mod needs_root {
        use super::*;
        use std::os::unix::fs::{chown, symlink};

        #[test]
        fn no_link_leads_to_a_secret_of_somebody_else() {
            let dir = tempfile::tempdir().unwrap();
            let (secret, link) = (dir.path().join("secret"), dir.path().join("link"));
            fs::write(&secret, "TOKEN=x").unwrap();
            symlink(&secret, &link).unwrap();
            let (uid, gid) = (65534, 65534);
            let (home, shell) = ("/".into(), "/bin/sh".into());
            let user = Identity { name: "bot".into(), uid, gid, groups: Vec::new(), home, shell };
            let read = |path: &Path| read_file(path, Some(&user), &mut Variables::new());
            assert!(read(&secret).is_ok(), "the operator may name what the user may not read");
            let error = read(&link).unwrap_err();
            assert!(matches!(&error, EnvironmentError::Linked { real, .. } if *real == secret), "{error}");
            chown(&secret, Some(uid), Some(gid)).unwrap();
            assert!(read(&link).is_ok(), "it is the user's own");
        }
    }
}
