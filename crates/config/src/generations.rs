//! `[service.NAME.generations]`: which store it names, with the keys of that store alone, and what belongs to a generation.

use crate::diagnostic::Report;
use crate::fields::Fields;
use crate::keys::{Key, generations as keys};
use crate::kinds::{List, Text};
use crate::validate::{absolute, names, program};
use hale_core::policy::{FILES_MAX, GenerationsPolicy, ServicePolicy, StoreKind};

/// What Hale itself keeps below its state directory: no change that it takes back may reach there.
const OWN_DIRECTORIES: [&str; 2] = ["releases", "ledger"];

/// `store`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreName {
    Release,
    NixProfile,
    Command,
}

impl StoreName {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 3] =
        [("release", Self::Release), ("nix-profile", Self::NixProfile), ("command", Self::Command)];

    /// The keys that this store alone has, all of which it needs.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Release => &[],
            Self::NixProfile => &["profile"],
            Self::Command => &["list", "current", "stage", "activate", "revert"],
        }
    }
}

/// Reads the table of `service`; no table: no generations. The outer `None`: it is wrong.
pub(crate) fn read(
    service: &Fields<'_>,
    state_dir: Option<&str>,
    base_dir: &str,
    report: &mut Report<'_>,
) -> Option<Option<GenerationsPolicy>> {
    if service.entry(keys::TABLE.name).is_none() {
        return Some(None);
    }
    let fields = service.table(keys::TABLE.name, &keys::SECTION, report);
    let store = store(&fields, base_dir, report);
    let probation = fields.get(&keys::PROBATION, report);
    let soak = fields.get(&keys::SOAK, report);
    let keep = fields.get(&keys::KEEP, report);
    let recent = fields.get(&keys::RECENT, report);
    let rollbacks_per_day = fields.get(&keys::ROLLBACKS_PER_DAY, report);
    let rollback = fields.get(&keys::ROLLBACK, report);
    let files = files(&fields, state_dir, base_dir, report);
    if let (Some(probation), Some(soak)) = (probation, soak)
        && soak < probation
    {
        let at = if fields.entry(keys::SOAK.name).is_some() { keys::SOAK.name } else { keys::PROBATION.name };
        let message = format!("`soak` ({soak}) is shorter than `probation` ({probation})");
        let help = "what counts as proven has shown more than what counts as good: make `soak` longer".to_owned();
        report.error(fields.place(at), message, Some(help));
    }
    Some(Some(GenerationsPolicy {
        store: store?,
        probation: probation?,
        soak: soak?,
        keep: keep?,
        recent: recent?,
        rollbacks_per_day: rollbacks_per_day?,
        rollback: rollback?,
        files: files?,
    }))
}

fn store(fields: &Fields<'_>, base_dir: &str, report: &mut Report<'_>) -> Option<StoreKind> {
    // With a store that does not exist, nobody knows which keys belong to it.
    let named = fields.get(&keys::STORE, report)?;
    for (word, other) in StoreName::ALL.into_iter().filter(|(_, other)| *other != named) {
        for (name, entry) in other.keys().iter().filter_map(|name| Some((name, fields.entry(name)?))) {
            let message = format!("`{name}` is a key of store = {word:?} alone");
            let help = match fields.entry(keys::STORE.name) {
                None => format!("add store = {word:?}: without it the store is \"release\""),
                Some(_) => format!("remove it, or write store = {word:?}"),
            };
            report.error(entry.key_at, message, Some(help));
        }
    }
    match named {
        StoreName::Release => Some(StoreKind::Release),
        StoreName::NixProfile => profile(fields, base_dir, report).map(|profile| StoreKind::NixProfile { profile }),
        StoreName::Command => {
            let list = hook(fields, &keys::LIST, report);
            let current = hook(fields, &keys::CURRENT, report);
            let stage = hook(fields, &keys::STAGE, report);
            let activate = hook(fields, &keys::ACTIVATE, report);
            let revert = hook(fields, &keys::REVERT, report);
            Some(StoreKind::Command {
                list: list?,
                current: current?,
                stage: stage?,
                activate: activate?,
                revert: revert?,
            })
        }
    }
}

fn profile(fields: &Fields<'_>, base_dir: &str, report: &mut Report<'_>) -> Option<String> {
    let path = fields.get(&keys::PROFILE, report)?;
    if names_directory(&path) {
        let message = format!("`profile` names the directory {path:?}, and must name the profile's link");
        let help = keys::PROFILE.example.map(|example| format!("for example {example}"));
        report.error(fields.place(keys::PROFILE.name), message, help);
        return None;
    }
    Some(absolute(base_dir, &path))
}

/// One of the programs of a store of the operator's own.
fn hook(fields: &Fields<'_>, key: &Key<List<Text>>, report: &mut Report<'_>) -> Option<Vec<String>> {
    let command = fields.get(key, report)?;
    let (word, at) = (command.first()?, fields.place(key.name));
    if word.starts_with('/') {
        program(key.name, &command, at, report);
    } else {
        let message = format!("`{}` must start with the absolute path of a program, not {word:?}", key.name);
        report.error(at, message, Some("write the path out: these programs are not searched in PATH".to_owned()));
    }
    Some(command)
}

fn files(fields: &Fields<'_>, state_dir: Option<&str>, base_dir: &str, report: &mut Report<'_>) -> Option<Vec<String>> {
    let name = keys::FILES.name;
    let given = fields.get(&keys::FILES, report)?;
    if given.len() > FILES_MAX {
        let message = format!("`{name}` names {} files; at most {FILES_MAX} can belong to a generation", given.len());
        let help = "name fewer: a whole tree of configuration is better a part of the release".to_owned();
        report.error(fields.place(name), message, Some(help));
        return None;
    }
    let own = |directory: &str| Some(format!("{}/{directory}/", plain(state_dir?)));
    let own: Vec<String> = OWN_DIRECTORIES.iter().filter_map(|directory| own(directory)).collect();
    let mut files = Vec::new();
    for (text, at) in names(fields.entry(name)) {
        let path = plain(&absolute(base_dir, &text));
        if names_directory(&text) {
            let help = "name each file in it".to_owned();
            report.error(at, format!("`{name}` names the directory {text:?}, and must name files"), Some(help));
        } else if text.split('/').any(|part| part == "..") {
            let help = "write the path out".to_owned();
            report.error(at, format!("`{name}` has `..` in {text:?}, which can lead anywhere"), Some(help));
        } else if let Some(own) = own.iter().find(|own| format!("{path}/").starts_with(*own)) {
            let help = "remove it: Hale looks after what is there itself".to_owned();
            report.error(at, format!("`{name}` names {text:?}, which is in Hale's own {own}"), Some(help));
        } else if files.contains(&path) {
            report.error(at, format!("`{name}` names {path} twice"), Some("remove one of them".to_owned()));
        } else {
            files.push(path);
        }
    }
    Some(files)
}

/// Refuses generations of what is to end by itself: nobody would ever see one hold for its probation.
pub(crate) fn refuse_what_ends(service: &ServicePolicy, fields: &Fields<'_>, report: &mut Report<'_>) {
    if service.generations.is_none() || service.restart.on_success {
        return;
    }
    let message = "a change would never prove itself: with `restart.on_success = false` the program may end, and what has ended is \
                   not seen to work for `probation`";
    let help = format!("remove `on_success = false`, or the table `{}`", keys::TABLE.name);
    report.error(fields.place(keys::TABLE.name), message, Some(help));
}

/// Warns when a service has releases, and nothing that it runs by is in them.
pub(crate) fn warn_of_idle_releases(
    service: &ServicePolicy,
    state_dir: &str,
    fields: &Fields<'_>,
    report: &mut Report<'_>,
) {
    let is_release = service.generations.as_ref().is_some_and(|it| it.store == StoreKind::Release);
    let Some(directory) = service.directory.as_ref().filter(|_| is_release) else { return };
    let releases = format!("{}/releases/", plain(state_dir));
    let is_relative = |word: &String| word.contains('/') && !word.starts_with('/');
    let given = [directory].into_iter().chain(&service.command).chain(service.environment.values());
    let mut given = given.chain(&service.environment_files);
    if service.command.first().is_some_and(is_relative) || given.any(|text| text.contains(&releases)) {
        return;
    }
    let message = "a release would change nothing: neither `command` nor `directory` is in it";
    let help = "start `command` with a relative path that has a slash, as \"bin/bot\", or remove `directory`";
    report.warning(fields.place("command"), message, Some(help.to_owned()));
}

/// Whether only a directory can be called so.
fn names_directory(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("" | "." | ".."))
}

/// An absolute path without what means nothing in it.
fn plain(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).fold(String::new(), |path, part| path + "/" + part)
}
