//! The programs of Nix, as the store `nix-profile` runs them: by store path, without a network, bounded in time.

use super::error::{ProgramFault, StoreError};
use super::program::Program;
use crate::execute::program::DEFAULT_PATH;
use hale_core::ids::GenerationId;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Nix is when nobody says (nix.conf(5), and the variables of nix-store(1)).
const STORE_DIR: &str = "/nix/store";
const STATE_DIR: &str = "/nix/var/nix";

/// Where the programs of Nix are when `PATH` does not lead to them: on NixOS, and as Nix's own installer puts them.
const PROGRAM_DIRS: [&str; 2] = ["/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin"];

/// 30 s: each of these takes 30 to 60 ms, and waits for seconds where a garbage collection of a large store on a slow disk has
/// the database.
const WITHIN: Duration = Duration::from_secs(30);
/// 15 min: reads a whole closure, of which a few GiB are large.
const READ_WITHIN: Duration = Duration::from_secs(15 * 60);

/// How many paths are given to one program: the kernel takes 2 MiB of arguments, and a path has at most 255 bytes.
const PATHS_AT_ONCE: usize = 1000;

/// The variables of Hale's own environment that say where Nix is (nix-store(1), "Common environment variables"), and who asks:
/// Nix does nothing for a user without a name, which a user of a container alone can be.
const VARIABLES: [&str; 7] =
    ["NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_CONF_DIR", "NIX_REMOTE", "NIX_DAEMON_SOCKET_PATH", "USER"];

/// The alphabet of the hash in a store path (`base32Chars` of libutil/hash.cc), and its length.
const HASH_CHARACTERS: &str = "0123456789abcdfghijklmnpqrsvwxyz";
const HASH_BYTES: usize = 32;
/// The longest name in a store path (libstore/store-api.cc, `checkStoreName`).
const NAME_BYTES_MAX: usize = 211;

/// Nix as it is on this machine.
#[derive(Debug, Clone)]
pub(super) struct Nix {
    store_dir: PathBuf,
    state_dir: PathBuf,
    search: OsString,
    environment: Vec<(OsString, OsString)>,
    pub(super) within: Duration,
}

impl Nix {
    /// `variable` is Hale's own environment; `home` is a directory for what `nix-env` leaves in its home.
    pub(super) fn new(variable: impl Fn(&str) -> Option<OsString>, home: &Path) -> Self {
        let path = |name: &str, default: &str| PathBuf::from(variable(name).unwrap_or_else(|| default.into()));
        let own = variable("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let dirs = std::env::split_paths(&own).filter(|dir| dir.is_absolute());
        // What was joined once can be joined again; without any there is only the rest.
        let search = std::env::join_paths(dirs.chain(PROGRAM_DIRS.map(PathBuf::from))).unwrap_or(own);
        let mut environment = vec![("PATH".into(), search.clone()), ("HOME".into(), home.into())];
        environment.extend(VARIABLES.iter().filter_map(|name| Some((OsString::from(name), variable(name)?))));
        let (store_dir, state_dir) = (path("NIX_STORE_DIR", STORE_DIR), path("NIX_STATE_DIR", STATE_DIR));
        Self { store_dir, state_dir, search, environment, within: WITHIN }
    }

    /// The directory of all paths.
    pub(super) fn store_dir(&self) -> &Path {
        &self.store_dir
    }

    /// Where roots are looked for by a garbage collection.
    pub(super) fn gc_roots(&self) -> PathBuf {
        self.state_dir.join("gcroots")
    }

    /// The id of a store path itself: what is inside of one, Nix would take for the whole, and what is none, it would look for
    /// on a network.
    pub(super) fn id(&self, path: &Path) -> Option<GenerationId> {
        let id = GenerationId::try_from(path.to_str()?).ok()?;
        self.hash(&id).is_some().then_some(id)
    }

    /// The hash of a store path.
    pub(super) fn hash<'a>(&self, id: &'a GenerationId) -> Option<&'a str> {
        let base = id.as_str().strip_prefix(self.store_dir.to_str()?)?.strip_prefix('/')?;
        let (hash, name) = base.split_once('-')?;
        let is_hash = hash.len() == HASH_BYTES && hash.chars().all(|c| HASH_CHARACTERS.contains(c));
        let in_name = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(in_name);
        // A derivation is the recipe of a path: Nix would build it.
        (is_hash && is_name && !name.ends_with(".drv")).then_some(hash)
    }

    pub(super) fn check(&self, id: &GenerationId) -> Result<(), StoreError> {
        let why = || format!("a generation of a profile is named by its path, {}/HASH-NAME", self.store_dir.display());
        self.hash(id).map(drop).ok_or_else(|| StoreError::not_an_id(id, why()))
    }

    /// Whether Nix has this path, and all that it needs.
    pub(super) fn find(&self, id: &GenerationId) -> Result<(), StoreError> {
        self.check(id)?;
        let words = ["--check-validity", "--print-invalid", id.as_str()];
        let invalid = self.program(format!("look for {id}"), "nix-store", words, self.within)?.ask()?;
        let why = if !invalid.is_empty() {
            "Nix does not have it; build it or copy it (nix copy) first"
        } else if Path::new(id.as_str()).symlink_metadata().is_err() {
            "Nix believes to have it and it is gone; repair it (nix-store --repair-path)"
        } else {
            return Ok(());
        };
        Err(StoreError::NotThere { id: id.clone(), why: why.to_owned() })
    }

    /// Reads a path and all that it needs, and compares each with the hash in Nix's database.
    pub(super) fn verify(&self, id: &GenerationId) -> Result<(), StoreError> {
        let (what, words) = (format!("learn what {id} needs"), ["--query", "--requisites", id.as_str()]);
        let needed = self.program(what, "nix-store", words, self.within)?.ask()?;
        for some in needed.chunks(PATHS_AT_ONCE) {
            let words = std::iter::once("--verify-path").chain(some.iter().map(String::as_str));
            let read = self.program(format!("verify {id}"), "nix-store", words, READ_WITHIN)?.act();
            if let Err(StoreError::Program { fault: ProgramFault::Failed { said, .. }, .. }) = read {
                return Err(StoreError::Altered { id: id.clone(), said });
            }
            read?;
        }
        Ok(())
    }

    /// Has a garbage collection keep a path, by a link at `root`. That the path is there has to be asked afterwards: a link to
    /// nothing protects nothing.
    pub(super) fn protect(&self, id: &GenerationId, root: &Path) -> Result<(), StoreError> {
        let root = root.to_string_lossy();
        // Below `gcroots` the link itself is a root; elsewhere Nix needs a second one there, which older ones make only when told.
        let words = ["--realise", id.as_str(), "--add-root", &root, "--indirect", "--option", "substitute", "false"];
        self.program(format!("protect {id} from garbage collections"), "nix-store", words, self.within)?.act()
    }

    /// Makes a path the profile's newest generation, and selects it. Takes no lock, and tells little by how it ends.
    pub(super) fn set(&self, profile: &Path, id: &GenerationId) -> Result<(), StoreError> {
        let profile = profile.to_string_lossy();
        let words = ["--profile", &profile, "--set", id.as_str(), "--option", "substitute", "false"];
        self.program(format!("switch {profile} to {id}"), "nix-env", words, self.within)?.act()
    }

    /// Removes links of a profile; the selected one Nix refuses to remove, and all others with it.
    pub(super) fn forget(&self, profile: &Path, numbers: &[u64]) -> Result<(), StoreError> {
        let profile = profile.to_string_lossy();
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        for some in numbers.chunks(PATHS_AT_ONCE) {
            let words = ["--profile", &profile, "--delete-generations"];
            let words = words.into_iter().chain(some.iter().map(String::as_str));
            self.program(format!("remove old generations of {profile}"), "nix-env", words, self.within)?.act()?;
        }
        Ok(())
    }

    fn program<'a>(
        &'a self,
        what: String,
        name: &str,
        words: impl IntoIterator<Item = &'a str>,
        within: Duration,
    ) -> Result<Program<'a>, StoreError> {
        let arguments = words.into_iter().map(OsStr::new).collect();
        let files = || std::env::split_paths(&self.search).map(|dir| dir.join(name));
        let path = files().find(|file| file.is_file()).unwrap_or_else(|| name.into());
        let program = Program { what, path, arguments, environment: &self.environment, within, confined: None };
        if program.path.is_absolute() {
            return Ok(program);
        }
        let searched = self.search.to_string_lossy().into_owned();
        Err(program.failed(ProgramFault::NotFound { searched }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_paths_of_the_store_are_ids() {
        let nix = |store: Option<&str>| {
            let store = store.map(OsString::from);
            Nix::new(move |name| store.clone().filter(|_| name == "NIX_STORE_DIR"), Path::new("/"))
        };
        let hash = "kvk7vfdv85g3nbjrigdmzxf0m4i9xr3b";
        let is_id = |nix: &Nix, path: &str| nix.id(Path::new(path)).is_some();
        let own = nix(None);
        assert!(is_id(&own, &format!("/nix/store/{hash}-bot-1.2_3+x?=")));
        let long = "x".repeat(NAME_BYTES_MAX);
        assert!(is_id(&own, &format!("/nix/store/{hash}-{long}")));
        for wrong in [
            format!("/nix/store/{hash}-bot/bin"),
            format!("/nix/store/{hash}-bot/"),
            format!("/nix/store//{hash}-bot"),
            format!("/nix/store/../store/{hash}-bot"),
            format!("/nix/store/{hash}-"),
            format!("/nix/store/{hash}-a b"),
            format!("/nix/store/{hash}-bot.drv"),
            format!("/nix/store/{hash}-{long}x"),
            format!("/nix/store/{}-bot", &hash[1..]),
            format!("/nix/store/{}-bot", hash.replace('k', "e")),
            format!("/nix/store2/{hash}-bot"),
            format!("nix/store/{hash}-bot"),
            format!("{hash}-bot"),
            "/nix/store".to_owned(),
        ] {
            assert!(!is_id(&own, &wrong), "{wrong}");
        }
        let private = nix(Some("/srv/store"));
        assert!(is_id(&private, &format!("/srv/store/{hash}-bot")));
        assert!(!is_id(&private, &format!("/nix/store/{hash}-bot")));
    }

    #[test]
    fn without_nix_it_is_said_where_it_was_looked_for() {
        let nix = Nix::new(|name| (name == "PATH").then(|| "/nonexistent:relative".into()), Path::new("/"));
        let id = GenerationId::try_from("/nix/store/kvk7vfdv85g3nbjrigdmzxf0m4i9xr3b-bot").unwrap();
        let nix = Nix { search: "/nonexistent".into(), ..nix };
        let error = nix.find(&id).unwrap_err().to_string();
        assert!(error.contains(": nix-store is not in /nonexistent; install it"), "{error}");
    }
}
