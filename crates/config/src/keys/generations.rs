//! The keys of `[service.NAME.generations]`.

use super::{Key, Section, Shape, Tables, key, needed, text as rule};
use crate::generations::StoreName;
use crate::kinds::{Choice, Duration, List, Number, Text};
use crate::text;
use hale_core::policy::{KEEP_MAX, ROLLBACKS_PER_DAY_MAX, Rollback};
use hale_core::time::Span;

pub(crate) static TABLE: Tables = Tables {
    name: "generations",
    doc: "Where the versions of the service are kept, and what a change of them has to show. Without this table Hale \
          knows of no versions.",
    shape: Shape::One(&SECTION),
};

/// `[service.NAME.generations]`.
pub(crate) static SECTION: Section = Section {
    title: "[service.NAME.generations]",
    keys: &[
        &STORE,
        &PROFILE,
        &LIST,
        &CURRENT,
        &STAGE,
        &ACTIVATE,
        &REVERT,
        &PROBATION,
        &SOAK,
        &KEEP,
        &RECENT,
        &ROLLBACKS_PER_DAY,
        &ROLLBACK,
        &FILES,
    ],
    planned: &[],
};

pub(crate) static STORE: Key<Choice<StoreName>> = key(
    "store",
    Choice { of: &StoreName::ALL, default: Some("release") },
    "Where they are kept. `release`: in Hale's own store. `nix-profile`: in a profile of Nix, the key `profile`. \
     `command`: wherever the programs `list`, `current`, `stage`, `activate` and `revert` keep them.",
);

pub(crate) static PROFILE: Key<Text> = needed(
    "profile",
    rule(text::path),
    "profile = \"/nix/var/nix/profiles/bot\"",
    "Of store \"nix-profile\" alone, and needed there: the profile's link.",
);

/// One of the programs of store "command".
macro_rules! hook {
    ($name:literal, $doc:expr) => {
        needed(
            $name,
            List {
                of: rule(text::word),
                non_empty: true,
                example: concat!(r#"["/usr/local/lib/bot/generations", ""#, $name, r#""]"#),
            },
            concat!($name, r#" = ["/usr/local/lib/bot/generations", ""#, $name, r#""]"#),
            $doc,
        )
    };
}

pub(crate) static LIST: Key<List<Text>> = hook!(
    "list",
    "Of store \"command\" alone, and needed there: a program by its absolute path, and its arguments. It prints the \
     generations, one a line, newest first."
);
pub(crate) static CURRENT: Key<List<Text>> =
    hook!("current", "As `list`. It prints the generation that is active, or nothing.");
pub(crate) static STAGE: Key<List<Text>> = hook!(
    "stage",
    "As `list`, with the generation as one more argument. It makes that one ready to be activated, and changes nothing."
);
pub(crate) static ACTIVATE: Key<List<Text>> =
    hook!("activate", "As `list`, with the generation as one more argument. It switches to that one.");
pub(crate) static REVERT: Key<List<Text>> = hook!(
    "revert",
    "As `list`, with the generation as one more argument. It switches back to that one, which was active before."
);

pub(crate) static PROBATION: Key<Duration> = key(
    "probation",
    Duration::positive(Some(Span::from_secs(60))),
    "How long all checks must hold after a change before it counts as good.",
);
pub(crate) static SOAK: Key<Duration> = key(
    "soak",
    Duration::positive(Some(Span::from_secs(86_400))),
    "How long the service must be healthy from then on before the change counts as proven; at least `probation`.",
);
pub(crate) static KEEP: Key<Number> = key(
    "keep",
    Number { min: 1, max: KEEP_MAX, default: Some(10) },
    "How many of the newest generations are kept, those that are needed for a way back always.",
);
pub(crate) static RECENT: Key<Duration> = key(
    "recent",
    Duration::positive(Some(Span::from_secs(7 * 86_400))),
    "A change older than this is not blamed for a failure.",
);
pub(crate) static ROLLBACKS_PER_DAY: Key<Number> = key(
    "rollbacks_per_day",
    Number { min: 1, max: ROLLBACKS_PER_DAY_MAX, default: Some(3) },
    "How many changes Hale may take back within 24 hours because the service fails. Those that fail on probation do \
     not count.",
);
pub(crate) static ROLLBACK: Key<Choice<Rollback>> = key(
    "rollback",
    Choice {
        of: &[("auto", Rollback::Auto), ("ask", Rollback::Ask), ("never", Rollback::Never)],
        default: Some("auto"),
    },
    "Whether a change may be taken back. `auto`: by Hale itself. `ask`: by an operator's order only. `never`: by \
     nobody, because data has moved forward with it.",
);
pub(crate) static FILES: Key<List<Text>> = key(
    "files",
    List { of: rule(text::path), non_empty: false, example: r#"["/etc/bot/bot.toml"]"# },
    "Configuration files that belong to a generation, at most 64: a change of one is a change of the generation, and \
     it is put back with it.",
);
