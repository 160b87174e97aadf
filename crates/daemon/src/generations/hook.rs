//! The programs that a generation brings for its service's data: run as the service's user, in the generation's own directory,
//! bounded, and gone with all that they started.

use super::error::{ProgramFault, StoreError};
use super::program::{Confined, Program};
use crate::execute::environment::{self, Given};
use crate::execute::program::resolve;
use crate::execute::tree::Trees;
use crate::execute::user;
use hale_core::ids::{GenerationId, Name};
use hale_core::text::is_harmless;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// 200: what names a copy is an id or a path. More is a text, of which nobody knows which part is meant.
const SNAPSHOT_CHARS_MAX: usize = 200;

/// The numbers of these programs among those that have a group of their own: the others count their probes from 0.
static NEXT: AtomicU64 = AtomicU64::new(1 << 63);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    BeforeSwitch,
    AfterRollback,
}

impl Which {
    fn as_str(self) -> &'static str {
        match self {
            Self::BeforeSwitch => "before_switch",
            Self::AfterRollback => "after_rollback",
        }
    }
}

/// What the program has of its service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served<'a> {
    pub(super) service: &'a Name,
    /// `None`: it runs as Hale's own user.
    pub(super) user: Option<&'a str>,
    pub(super) variables: &'a Variables,
}

/// The variables that a service is started with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Variables {
    pub(super) environment: BTreeMap<String, String>,
    pub(super) environment_files: Vec<String>,
}

/// Why one came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The host could not begin it, for want of memory for example: another try may.
    NotBegun(String),
    /// It cannot be run at all, or has run and failed.
    Failed(String),
}

impl Fault {
    /// What happened.
    pub(super) fn text(self) -> String {
        match self {
            Self::NotBegun(text) | Self::Failed(text) => text,
        }
    }
}

/// One run.
#[derive(Debug)]
pub(super) struct Hook<'a> {
    pub(super) which: Which,
    /// Whose it is.
    pub(super) of: &'a GenerationId,
    /// The directory of that.
    pub(super) root: &'a Path,
    /// The program, and its arguments.
    pub(super) command: &'a [String],
    pub(super) within: Duration,
    /// What is left; `None` where there was nothing.
    pub(super) from: Option<&'a GenerationId>,
    /// What is switched to.
    pub(super) to: &'a GenerationId,
    pub(super) snapshot: Option<&'a str>,
}

impl Hook<'_> {
    /// Runs it, and gives the last line that it printed, which names the copy that it made.
    ///
    /// # Errors
    /// It did not exit with status 0 within its bounds, or could not be started, or what it printed last cannot be kept.
    pub(super) fn run(&self, served: Served<'_>, trees: &Trees) -> Result<Option<String>, Fault> {
        let what = format!("run {} of {}", self.which.as_str(), self.of.short());
        let not_yet = |why: String| Fault::NotBegun(format!("cannot {what}: {why}"));
        let cannot = |why: String| Fault::Failed(format!("cannot {what}: {why}"));
        let find = |name: &str| user::lookup(name).map_err(|error| not_yet(format!("user {name}: {error}")));
        let identity = served.user.filter(|_| rustix::process::geteuid().is_root()).map(find).transpose()?;
        let group = trees.probe_group(NEXT.fetch_add(1, Ordering::Relaxed));
        let group = group.map_err(|error| not_yet(format!("no cgroup for it: {error}")))?;
        let given = Given {
            variables: &served.variables.environment,
            files: &served.variables.environment_files,
            tag: "",
            notify_socket: None,
            watchdog: None,
            identity: identity.as_ref(),
        };
        let of_service = environment::build(&given).map_err(|error| not_yet(format!("environment: {error}")))?;
        let mut environment: BTreeMap<OsString, OsString> = BTreeMap::new();
        environment.extend(of_service.iter().filter_map(|entry| {
            let entry = entry.as_bytes();
            let at = entry.iter().position(|&byte| byte == b'=')?;
            Some((OsStr::from_bytes(&entry[..at]).to_owned(), OsStr::from_bytes(&entry[at + 1..]).to_owned()))
        }));
        let (tree, tag) = group.second_tag();
        let own = [
            ("HALE_SERVICE", Some(served.service.as_str())),
            ("HALE_HOOK", Some(self.which.as_str())),
            ("HALE_FROM", self.from.map(GenerationId::as_str)),
            ("HALE_TO", Some(self.to.as_str())),
            ("HALE_SNAPSHOT", self.snapshot),
            (tree, Some(tag)),
        ];
        for (name, value) in own {
            environment.remove(OsStr::new(name));
            environment.extend(value.map(|value| (name.into(), value.into())));
        }
        let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
        let (word, arguments) = self.command.split_first().ok_or_else(|| cannot(String::from("it is empty")))?;
        // Both ways in which generations are named are ASCII, and the state directory is text in the configuration.
        let root = self.root.to_str().ok_or_else(|| cannot(String::from("its directory has no name in UTF-8")))?;
        let path = resolve(word, root).map_err(|error| cannot(format!("program {word:?}: {error}")))?;
        let program = Program {
            what: what.clone(),
            path: PathBuf::from(OsString::from_vec(path.into_bytes())),
            arguments: arguments.iter().map(OsStr::new).collect(),
            environment: &environment,
            within: self.within,
            confined: Some(Confined { directory: self.root, identity: identity.as_ref(), group: &group }),
        };
        let end = program.act_and_tell().map_err(|error| match &error {
            StoreError::Program { fault: ProgramFault::NotStarted(_), .. } => Fault::NotBegun(error.to_string()),
            _ => Fault::Failed(error.to_string()),
        })?;
        match self.which {
            Which::BeforeSwitch => snapshot(&end).map_err(cannot),
            Which::AfterRollback => Ok(None),
        }
    }
}

/// The last line that is not empty. It is refused rather than cut or changed: a name that is nearly right would be looked for when
/// it is needed.
fn snapshot(end: &[u8]) -> Result<Option<String>, String> {
    let Some(line) = end.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).rfind(|line| !line.is_empty()) else {
        return Ok(None);
    };
    let refused = |why: &str| format!("its last line on standard output {why}; print what names the copy, or nothing");
    let line = std::str::from_utf8(line).map_err(|_| refused("is not UTF-8"))?.trim();
    if line.chars().count() > SNAPSHOT_CHARS_MAX {
        return Err(refused(&format!("has more than {SNAPSHOT_CHARS_MAX} characters")));
    }
    if !line.chars().all(is_harmless) {
        return Err(refused("has control characters"));
    }
    Ok(Some(line.to_owned()).filter(|line| !line.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::tree::instance;

    struct Place {
        dir: tempfile::TempDir,
        variables: Variables,
        trees: Trees,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let environment = [("WORD", "up"), ("HALE_HOOK", "mine")];
            let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let trees = Trees::open(&instance(dir.path()));
            Self { dir, variables: Variables { environment, environment_files: Vec::new() }, trees }
        }

        fn run(&self, which: Which, script: &str, within_ms: u64) -> Result<Option<String>, Fault> {
            let id = |text: &str| GenerationId::try_from(text).unwrap();
            let hook = Hook {
                which,
                of: &id("new"),
                root: self.dir.path(),
                command: &["sh", "-c", script].map(str::to_owned),
                within: Duration::from_millis(within_ms),
                from: Some(&id("old")),
                to: &id("new"),
                snapshot: Some("copy-1").filter(|_| which == Which::AfterRollback),
            };
            let service = Name::try_from("bot").unwrap();
            hook.run(Served { service: &service, user: None, variables: &self.variables }, &self.trees)
        }

        fn before(&self, script: &str) -> Result<Option<String>, Fault> {
            self.run(Which::BeforeSwitch, script, 60_000)
        }
    }

    #[test]
    fn it_is_told_what_it_is_run_for_and_what_it_prints_last_is_kept() {
        let place = Place::new();
        let words = "echo $HALE_SERVICE $HALE_HOOK $HALE_FROM $HALE_TO ${HALE_SNAPSHOT-none} $WORD";
        assert_eq!(place.before(words), Ok(Some("bot before_switch old new none up".into())));
        let out = place.dir.path().join("out");
        let told = place.run(Which::AfterRollback, &format!("{words} > {}", out.display()), 60_000);
        assert_eq!(told, Ok(None));
        assert_eq!(std::fs::read_to_string(out).unwrap(), "bot after_rollback old new copy-1 up\n");
        assert_eq!(place.before("pwd -P"), Ok(Some(place.dir.path().canonicalize().unwrap().display().to_string())));
        assert_eq!(
            place.before("echo first; echo; echo '  last one '; echo; echo not this >&2"),
            Ok(Some("last one".into()))
        );
        assert_eq!(place.before("echo not this >&2"), Ok(None));
        assert_eq!(place.before("yes | head -c 1000000; echo end"), Ok(Some("end".into())));
    }

    #[test]
    fn what_cannot_be_kept_as_it_is_is_refused() {
        let place = Place::new();
        let cases = [
            ("printf 'x\\033[2J'", "has control characters"),
            ("head -c 201 /dev/zero | tr '\\0' x", "has more than 200 characters"),
            ("printf '\\377'", "is not UTF-8"),
        ];
        for (script, why) in cases {
            let told = place.before(script).unwrap_err().text();
            assert!(told.starts_with("cannot run before_switch of new: its last line") && told.contains(why), "{told}");
        }
    }

    #[test]
    fn what_fails_or_hangs_says_so() {
        let place = Place::new();
        let failed = place.before("printf 'no \\033[2J room\\n' >&2; exit 3").unwrap_err().text();
        assert!(failed.ends_with("failed (exit status: 3): no \\u{1b}[2J room"), "{failed}");
        let hung = place.run(Which::AfterRollback, "sleep 1000", 300).unwrap_err().text();
        assert!(hung.starts_with("cannot run after_rollback of new: ") && hung.contains("within 0.3 s"), "{hung}");
    }

    /// A fifo that a process has open for writing ends when the last such process is gone.
    #[test]
    fn what_it_started_ends_with_it_in_whatever_session() {
        use crate::execute::tree::{Kind, Unusable};
        use rustix::fs::{CWD, FileType, Mode};
        let mut place = Place::new();
        for end in ["exit 0", "exit 1", "sleep 1000", "exit 0", "exit 1", "sleep 1000"].into_iter().enumerate() {
            let (round, end) = end;
            if round == 3 {
                // Where there are no cgroups.
                place.trees = Trees::new("0badcafe", Kind::Tags { why: Unusable::NotMounted }, None);
            }
            let (fifo, mark) = (place.dir.path().join("fifo"), place.dir.path().join("mark"));
            rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let child = format!("setsid sh -c 'exec 3> {}; : > {}; exec sleep 1000' &", fifo.display(), mark.display());
            let script = format!("{child} while [ ! -e {} ]; do :; done; {end}", mark.display());
            let reader = std::thread::spawn({
                let fifo = fifo.clone();
                move || std::fs::read_to_string(fifo).unwrap()
            });
            assert_eq!(place.run(Which::BeforeSwitch, &script, 3_000).is_ok(), end == "exit 0", "{end}");
            assert_eq!(reader.join().unwrap(), "");
            for path in [fifo, mark] {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
}
