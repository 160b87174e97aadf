//! `[dependency.NAME]`: things outside that Hale does not run, each with the checks that tell whether it is there.

use crate::checks;
use crate::diagnostic::{Place, Report};
use crate::document::{Entry, Item, Table, Value};
use crate::fields::Fields;
use crate::keys::{self, AnyKey, CheckName, Key, Section, Shape, Tables};
use crate::kinds::Choice;
use hale_core::ids::Name;
use hale_core::policy::DependencyPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) static TABLE: Tables = Tables {
    name: "dependency",
    doc: "Things outside that services start after and that Hale does not run, by name. No service has the same name.",
    shape: Shape::Named(&SECTION),
};

/// `[dependency.NAME]`.
pub(crate) static SECTION: Section = Section { title: "[dependency.NAME]", keys: &[&CHECKS], planned: &[] };

static CHECKS: Tables = Tables {
    name: "check",
    doc: "What tells whether it is there: one table, or a list of them.",
    shape: Shape::OutsideChecks,
};

/// The kinds that need nothing of Hale's own: no process tree and no notify socket.
pub(crate) const KINDS: [(&str, CheckName); 5] = [
    ("http", CheckName::Http),
    ("tcp", CheckName::Tcp),
    ("exec", CheckName::Exec),
    ("grpc", CheckName::Grpc),
    ("metric", CheckName::Metric),
];

static KIND: Key<Choice<CheckName>> = Key {
    name: keys::KIND.name,
    doc: keys::KIND.doc,
    required: keys::KIND.required,
    example: keys::KIND.example,
    kind: Choice { of: &KINDS, default: None },
};

/// All dependencies of the file.
pub(crate) struct Dependencies<'a> {
    /// Their names as written, with their places, also of those with mistakes.
    pub declared: BTreeMap<&'a str, Place>,
    policies: BTreeMap<Name, Option<Arc<DependencyPolicy>>>,
}

impl Dependencies<'_> {
    /// `None`: one of them is wrong.
    pub fn policies(self) -> Option<BTreeMap<Name, Arc<DependencyPolicy>>> {
        self.policies.into_iter().map(|(name, policy)| Some((name, policy?))).collect()
    }
}

/// Reads them; `services` are the names that are taken.
pub(crate) fn read<'a>(
    root: &Fields<'a>,
    services: &BTreeSet<&str>,
    base_dir: &str,
    report: &mut Report<'_>,
) -> Dependencies<'a> {
    static NONE: Table = Table(BTreeMap::new());
    let tables = match root.entry(TABLE.name()).map(|entry| &entry.item) {
        None => &NONE,
        Some(Item { value: Value::Table(table), .. }) => table,
        Some(item) => {
            let help = Some("write [dependency.NAME] and its checks below".to_owned());
            report.error(item.at, format!("`dependency` must be a table, not {}", item.value.describe()), help);
            &NONE
        }
    };
    let mut all = Dependencies { declared: BTreeMap::new(), policies: BTreeMap::new() };
    for (name, entry) in &tables.0 {
        all.declared.insert(name, entry.key_at);
        if services.contains(name.as_str()) {
            let help =
                Some("services and dependencies share their names: `after` tells them apart by nothing else".into());
            report.error(entry.key_at, format!("`{name}` is a service already"), help);
        }
        let checked = Name::try_from(name.as_str())
            .map_err(|why| report.error(entry.key_at, format!("{name:?} cannot be a dependency's name: {why}"), None));
        let policy = dependency(name, entry, base_dir, report).map(Arc::new);
        if let Ok(name) = checked {
            all.policies.insert(name, policy);
        }
    }
    all
}

fn dependency(name: &str, entry: &Entry, base_dir: &str, report: &mut Report<'_>) -> Option<DependencyPolicy> {
    let example = || Some(format!("write [dependency.{name}.check] with kind = \"tcp\" and its keys below"));
    let Value::Table(table) = &entry.item.value else {
        let message = format!("`dependency.{name}` must be a table, not {}", entry.item.value.describe());
        report.error(entry.item.at, message, example());
        return None;
    };
    let fields = Fields::open(table, &SECTION, format!("[dependency.{name}]"), entry.key_at, report);
    let items = match fields.entry(CHECKS.name()).map(|entry| &entry.item) {
        Some(Item { value: Value::List(list), .. }) => &list[..],
        Some(item @ Item { value: Value::Table(_), .. }) => std::slice::from_ref(item),
        Some(item) => {
            let message = format!("`check` must be a table or a list of tables, not {}", item.value.describe());
            report.error(item.at, message, example());
            return None;
        }
        None => &[],
    };
    if items.is_empty() {
        report.error(
            entry.key_at,
            format!("dependency `{name}` has no check: nothing would tell whether it is there"),
            example(),
        );
        return None;
    }
    let outside: Vec<&Item> = items.iter().filter(|item| is_outside(item, report)).collect();
    let checks = checks::read_items(outside.iter().copied(), &fields, &KIND, base_dir, report)?;
    if let Some(check) = checks.iter().find(|check| !check.confirm.is_empty()) {
        let message =
            format!("`confirm` has no effect in check `{}` of a dependency: nothing is killed for it", check.name);
        report.error(entry.key_at, message, Some("remove it".to_owned()));
        return None;
    }
    (outside.len() == items.len()).then_some(DependencyPolicy { checks })
}

/// Whether a check's kind needs no process of Hale's; one whose kind is missing or unknown is reported as any other is.
fn is_outside(item: &Item, report: &mut Report<'_>) -> bool {
    let Value::Table(table) = &item.value else { return true };
    let Some(Item { value: Value::Text(kind), at }) = table.0.get(keys::KIND.name).map(|entry| &entry.item) else {
        return true;
    };
    let known = CheckName::ALL.iter().any(|(word, _)| word == kind);
    if !known || KINDS.iter().any(|(word, _)| word == kind) {
        return true;
    }
    let kinds = KINDS.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let message = format!("a check of kind {kind:?} looks at processes that Hale runs, and a dependency has none");
    report.error(*at, message, Some(format!("use one of {kinds}")));
    false
}

/// Tells of dependencies that nothing starts after.
pub(crate) fn unused(declared: &BTreeMap<&str, Place>, wanted: &BTreeSet<&str>, report: &mut Report<'_>) {
    for (name, at) in declared.iter().filter(|(name, _)| !wanted.contains(*name)) {
        let help = Some(format!("add `after = [\"{name}\"]` to those that need it"));
        report.warning(*at, format!("no service starts after `{name}`: whether it is there changes nothing"), help);
    }
}
