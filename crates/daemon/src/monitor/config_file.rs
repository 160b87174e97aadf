//! Reads `hale.toml` and the files of `hale.d` beside it, unless somebody else could have written them.

use hale_config::{Diagnostic, HostDefaults, Source, Validated};
use hale_core::policy::HostPolicy;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The largest file of configuration: a thousand services with all keys need less, and a wrong path (a disk,
/// a log) is refused before it fills the memory.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// The most files in `hale.d`: one for each service of the largest host that Hale is measured with.
pub const FILES_MAX: usize = 1_000;

/// Where the configuration is looked for when nobody says where, in this order.
pub const DEFAULT_PATHS: [&str; 2] = ["hale.toml", "/etc/hale/hale.toml"];

/// Sticky bit of a directory: only a file's owner can replace it there (inode(7)).
const STICKY: u32 = 0o1000;

/// A configuration that was read from files and is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Policy, its hash, and warnings.
    pub validated: Validated,
    /// The files it came from, in the order they were read.
    pub files: Vec<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Neither of [`DEFAULT_PATHS`] exists.
    #[error("no configuration: neither ./hale.toml nor /etc/hale/hale.toml exists; name a file with -c FILE")]
    NotFound,
    /// A file or directory could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not a regular file: reading a pipe or a device could last for ever.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// More than [`FILE_BYTES_MAX`].
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; is it the right file?", .0.display())]
    TooLarge(PathBuf),
    /// More than [`FILES_MAX`] files.
    #[error("{} holds more than {FILES_MAX} files", .0.display())]
    TooMany(PathBuf),
    /// Not UTF-8, as TOML must be.
    #[error("{} is not UTF-8 text: see byte {at}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where it stops being UTF-8.
        at: usize,
    },
    /// A path that cannot be written down in the policy.
    #[error("{} is not a path of UTF-8 text", .0.display())]
    PathNotText(PathBuf),
    /// Hale runs as root and others could change what it does.
    #[error("{} {what}, so others could give root orders: {remedy}", path.display())]
    Untrusted {
        /// File or directory.
        path: PathBuf,
        /// What is wrong with its owner or mode.
        what: String,
        /// The command that repairs it.
        remedy: String,
    },
    /// Not root, and nothing says where this user's files are.
    #[error(
        "neither XDG_STATE_HOME nor HOME is an absolute path, so there is no place for Hale's state; set one of them"
    )]
    NoHome,
    /// The text is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Diagnostic>),
}

/// The first of [`DEFAULT_PATHS`] that exists.
///
/// # Errors
///
/// [`LoadError::NotFound`].
pub fn find() -> Result<PathBuf, LoadError> {
    let exists = DEFAULT_PATHS.iter().map(PathBuf::from).find(|path| path.exists());
    exists.ok_or(LoadError::NotFound)
}

/// Reads and validates `path` and, beside it, the files `*.toml` of the directory of the same name with the
/// ending `.d` (`hale.toml`: `hale.d`), in the order of their names.
///
/// For root, each file and the directory that holds it must be root's; the directories above are not looked at.
///
/// # Errors
///
/// See [`LoadError`]; a wrong configuration comes back with all of its mistakes.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    load_with(path, &default_directories()?)
}

/// As [`load`], for a command that looks for a running Hale: what `[host]` leaves out is where the Hale of the file's
/// owner has it. That can be told of root only, whose directories are fixed; it is taken where they exist, so that an
/// ordinary user may run a Hale of their own with a file of root's.
///
/// # Errors
///
/// As [`load`].
pub fn load_for_client(path: &Path) -> Result<Loaded, LoadError> {
    load_with(path, &defaults_of_owner(path)?)
}

/// The directories that this would give, and whether the configuration can be used: with mistakes elsewhere than in `[host]`
/// it tells still where the Hale is that runs by an earlier one.
///
/// # Errors
///
/// As [`load`].
pub fn client_directories(path: &Path) -> Result<(HostDefaults, bool), LoadError> {
    let (defaults, read) = (defaults_of_owner(path)?, read(path)?);
    match hale_config::parse(&read.sources, &defaults, &read.base_dir) {
        Ok(Validated { policy, .. }) => {
            let HostPolicy { state_dir, runtime_dir, log_dir, .. } = policy.host;
            Ok((HostDefaults { state_dir, runtime_dir, log_dir }, true))
        }
        Err(mistakes) => {
            let directories = hale_config::directories(&read.sources, &defaults, &read.base_dir);
            Ok((directories.ok_or(LoadError::Invalid(mistakes))?, false))
        }
    }
}

fn defaults_of_owner(path: &Path) -> Result<HostDefaults, LoadError> {
    let owner = std::fs::metadata(path).map_err(|source| LoadError::Read { path: path.into(), source })?.uid();
    client_defaults(owner, |path| path.exists(), default_directories)
}

fn client_defaults(
    owner: u32,
    exists: impl Fn(&Path) -> bool,
    own: impl FnOnce() -> Result<HostDefaults, LoadError>,
) -> Result<HostDefaults, LoadError> {
    let roots = host_defaults(true, |_| None, None)?;
    let used = exists(Path::new(&roots.runtime_dir)) || exists(Path::new(&roots.state_dir));
    if owner == 0 && used { Ok(roots) } else { own() }
}

/// The texts of a configuration.
struct Read {
    files: Vec<PathBuf>,
    sources: Vec<Source>,
    base_dir: String,
}

fn load_with(path: &Path, defaults: &HostDefaults) -> Result<Loaded, LoadError> {
    let Read { files, sources, base_dir } = read(path)?;
    let validated = hale_config::parse(&sources, defaults, &base_dir).map_err(LoadError::Invalid)?;
    Ok(Loaded { validated, files })
}

fn read(path: &Path) -> Result<Read, LoadError> {
    let root = rustix::process::geteuid().is_root();
    let absolute = std::path::absolute(path).map_err(|source| LoadError::Read { path: path.into(), source })?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    let base_dir = base.to_str().ok_or_else(|| LoadError::PathNotText(base.into()))?;

    let mut files = vec![path.to_owned()];
    let further = path.with_extension("d");
    if further != path {
        files.extend(toml_files(&further, root)?);
    }
    if root {
        trusted_directory(base)?;
    }
    let sources = files.iter().map(|path| source(path, root)).collect::<Result<Vec<_>, _>>()?;
    Ok(Read { files, sources, base_dir: base_dir.to_owned() })
}

/// The directories of a Hale that runs as this user and whose configuration says nothing else.
///
/// # Errors
///
/// [`LoadError::NoHome`].
pub fn default_directories() -> Result<HostDefaults, LoadError> {
    let uid = rustix::process::geteuid();
    let session = format!("/run/user/{}", uid.as_raw());
    let session = std::fs::metadata(&session).is_ok_and(|meta| meta.uid() == uid.as_raw()).then_some(session);
    host_defaults(uid.is_root(), |name| std::env::var(name).ok(), session)
}

/// `[host]`'s directories: fixed ones for root, the XDG Base Directory Specification's for others. `variable`
/// is the environment, `session` the user's own directory of logind (pam_systemd(8)) where it exists.
fn host_defaults(
    root: bool,
    variable: impl Fn(&str) -> Option<String>,
    session: Option<String>,
) -> Result<HostDefaults, LoadError> {
    if root {
        return Ok(HostDefaults {
            state_dir: "/var/lib/hale".into(),
            runtime_dir: "/run/hale".into(),
            log_dir: "/var/log/hale".into(),
        });
    }
    // The specification: a relative path is to be ignored.
    let absolute = |name: &str| variable(name).filter(|path| path.starts_with('/'));
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| format!("{home}/.local/state")));
    let state_dir = format!("{}/hale", state.ok_or(LoadError::NoHome)?);
    // cron and su leave the variable out: then what it would have been, so that `hale status` in a session finds
    // the supervisor; else a directory of this user, not one in /tmp that another could have made first.
    let runtime_dir = match absolute("XDG_RUNTIME_DIR").or(session) {
        Some(runtime) => format!("{runtime}/hale"),
        None => format!("{state_dir}/run"),
    };
    Ok(HostDefaults { log_dir: format!("{state_dir}/log"), state_dir, runtime_dir })
}

/// The files `*.toml` in `directory`, by name; hidden ones, such as an editor's, are left out.
/// None where there is no such directory.
fn toml_files(directory: &Path, root: bool) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |source| LoadError::Read { path: directory.into(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    if root {
        trusted_directory(directory)?;
    }
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(LoadError::TooMany(directory.into()));
        }
    }
    files.sort();
    Ok(files)
}

fn source(path: &Path, root: bool) -> Result<Source, LoadError> {
    let failed = |source| LoadError::Read { path: path.into(), source };
    // Not blocking: opening a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(LoadError::NotAFile(path.into()));
    }
    if root {
        trusted(path, stat.st_uid, stat.st_gid, stat.st_mode)?;
    }
    let mut bytes = Vec::new();
    File::from(file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(LoadError::TooLarge(path.into()));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| LoadError::NotText { path: path.into(), at: error.utf8_error().valid_up_to() })?;
    Ok(Source { name: path.display().to_string(), text })
}

/// Refuses a directory in which others could replace the file.
fn trusted_directory(path: &Path) -> Result<(), LoadError> {
    let failed = |source| LoadError::Read { path: path.into(), source };
    let meta = std::fs::metadata(path).map_err(failed)?;
    trusted(path, meta.uid(), meta.gid(), directory_mode(meta.mode()))
}

/// The mode of a directory without the rights that do not let others replace its files.
fn directory_mode(mode: u32) -> u32 {
    if mode & STICKY == 0 { mode } else { mode & !0o022 }
}

/// Refuses what somebody other than root could write.
fn trusted(path: &Path, uid: u32, gid: u32, mode: u32) -> Result<(), LoadError> {
    let refuse = |what: String, remedy: &str| {
        let remedy = format!("{remedy} {}", path.display());
        Err(LoadError::Untrusted { path: path.into(), what, remedy })
    };
    if uid != 0 {
        refuse(format!("belongs to user {uid}"), "chown root")
    } else if mode & 0o002 != 0 {
        refuse("can be written by everybody".into(), "chmod o-w")
    } else if mode & 0o020 != 0 && gid != 0 {
        refuse(format!("can be written by group {gid}"), "chmod g-w")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[service.bot]\ncommand = [\"bot\"]\n";

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_file_and_its_directory_are_one_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("hale.toml");
        write(&main, GOOD);
        write(&dir.path().join("hale.d/20-b.toml"), "[service.b]\ncommand = [\"b\"]\ndirectory = \"data\"\n");
        write(&dir.path().join("hale.d/10-a.toml"), "[service.a]\ncommand = [\"a\"]\n");
        write(&dir.path().join("hale.d/.10-a.toml.swp.toml"), "broken");
        write(&dir.path().join("hale.d/readme.txt"), "broken");
        let loaded = load(&main).unwrap();
        let names: Vec<_> = loaded.validated.policy.services.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "bot"]);
        assert_eq!(loaded.files.len(), 3);
        assert!(loaded.files[1].ends_with("10-a.toml"));
        let b = &loaded.validated.policy.services[&"b".try_into().unwrap()];
        assert_eq!(Path::new(b.directory.as_deref().unwrap()), dir.path().join("data"), "relative to the main file");
    }

    #[test]
    fn further_files_are_read_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("hale.toml");
        write(&main, GOOD);
        // 37 and 64 share no factor: all numbers, in an order that no file system gives back sorted by chance.
        for number in (0..64).map(|step| step * 37 % 64) {
            write(&dir.path().join(format!("hale.d/{number:02}.toml")), "");
        }
        let files = load(&main).unwrap().files;
        assert_eq!(files.len(), 65);
        assert!(files[1..].is_sorted());
    }

    #[test]
    fn mistakes_come_back_with_the_file_they_are_in() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("hale.toml");
        write(&main, GOOD);
        write(&dir.path().join("hale.d/a.toml"), "[service.bot]\nusr = \"bot\"\n");
        let LoadError::Invalid(all) = load(&main).unwrap_err() else { panic!("not invalid") };
        assert_eq!(all.len(), 1);
        assert!(all[0].file.ends_with("hale.d/a.toml"), "{}", all[0].file);
    }

    #[test]
    fn what_is_no_text_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hale.toml");
        assert!(matches!(load(&path), Err(LoadError::Read { .. })));
        std::fs::write(&path, b"a = \"\xff\"").unwrap();
        assert!(matches!(load(&path), Err(LoadError::NotText { at: 5, .. })));
        std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(load(&path), Err(LoadError::TooLarge(_))));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(load(&path), Err(LoadError::NotAFile(_))));
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("hale.toml");
        write(&main, GOOD);
        write(&dir.path().join("hale.d"), "a file, where a directory should be");
        assert!(matches!(load(&main), Err(LoadError::Read { .. })));
    }

    #[test]
    fn a_sticky_directory_protects_the_files_of_root() {
        let path = Path::new("/tmp");
        assert!(trusted(path, 0, 0, directory_mode(0o041_777)).is_ok());
        assert!(trusted(path, 0, 0, directory_mode(0o040_777)).is_err());
        assert!(trusted(path, 1000, 0, directory_mode(0o041_777)).is_err(), "its owner can replace files");
    }

    #[test]
    fn root_takes_orders_from_root_only() {
        let path = Path::new("/etc/hale/hale.toml");
        assert!(trusted(path, 0, 0, 0o100_644).is_ok());
        assert!(trusted(path, 0, 0, 0o100_664).is_ok(), "group root is root");
        assert!(trusted(path, 0, 100, 0o100_644).is_ok());
        for (uid, gid, mode) in [(1000, 0, 0o100_644), (0, 100, 0o100_664), (0, 0, 0o100_646)] {
            let error = trusted(path, uid, gid, mode).unwrap_err().to_string();
            assert!(error.contains("/etc/hale/hale.toml") && error.contains("ch"), "{error}");
        }
    }

    #[test]
    fn a_file_of_root_means_the_hale_of_root() {
        let own = || host_defaults(false, |name| (name == "HOME").then(|| "/home/u".to_owned()), None);
        let state = |owner, exists: &[&str]| {
            let exists = |path: &Path| exists.iter().any(|one| path == Path::new(one));
            client_defaults(owner, exists, own).unwrap().state_dir
        };
        for there in ["/run/hale", "/var/lib/hale"] {
            assert_eq!(state(0, &[there]), "/var/lib/hale", "{there}");
            assert_eq!(state(1000, &[there]), "/home/u/.local/state/hale", "{there}");
        }
        assert_eq!(state(0, &[]), "/home/u/.local/state/hale", "root has never run it here");
        // Where nobody says where the user's own are, they are not needed.
        assert!(client_defaults(0, |_| true, || Err(LoadError::NoHome)).is_ok());
    }

    #[test]
    fn defaults_depend_on_who_runs_hale() {
        let root = host_defaults(true, |_| None, None).unwrap();
        assert_eq!((&*root.state_dir, &*root.log_dir), ("/var/lib/hale", "/var/log/hale"));
        let home = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
        let user = host_defaults(false, home, None).unwrap();
        assert_eq!(user.state_dir, "/home/u/.local/state/hale");
        assert_eq!(user.runtime_dir, "/home/u/.local/state/hale/run");
        let session = host_defaults(false, home, Some("/run/user/1000".into())).unwrap();
        assert_eq!(session.runtime_dir, "/run/user/1000/hale");
        let relative = |name: &str| (name != "HOME").then(|| "x".to_owned());
        assert!(matches!(host_defaults(false, relative, None), Err(LoadError::NoHome)));
    }
}
