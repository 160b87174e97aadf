//! The stories that are interrupted: one service, what happens to it, and what that must end on.

use super::ends::{self, Ending};
use crate::crash::Crash;
use crate::fate::Flaw;
use crate::fault::Fault;
use crate::generations::{self, Doing};
use crate::scenario::{Scenario, default_check, default_service, name};
use crate::store::{Comes, Work};
use hale_core::ids::{GenerationId, Name};
use hale_core::policy::{CheckKind, CrashLoop, GenerationsPolicy, Rollback, ServicePolicy, StoreKind};
use hale_core::record::OperatorOrder;
use hale_core::safeswitch::{Data, Part};
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// When the first thing is done, in microseconds after the beginning.
const AT: u64 = 100_000;

/// What happens in one story.
pub(super) struct Story {
    pub(super) title: &'static str,
    first: Option<u64>,
    doings: Vec<(u64, Doing)>,
    flaw: fn(u64, u64) -> Option<Flaw>,
    /// What the new one says of the data.
    data: Option<Data>,
    /// What becomes of what the store is told then.
    works: fn(&Work, u64) -> Comes,
    rollback: Rollback,
    /// What its end may be, where the last change was proved, and where it was not.
    pub(super) ends: fn(&Ending<'_>) -> Result<(), String>,
}

/// A release is deployed, and nothing is wrong with anything.
fn story(title: &'static str, ends: fn(&Ending<'_>) -> Result<(), String>) -> Story {
    Story {
        title,
        first: Some(0),
        doings: vec![(AT, deploy(1))],
        flaw: |_, _| None,
        data: None,
        works: |_, _| Comes::Done,
        rollback: Rollback::Auto,
        ends,
    }
}

fn crashes_at_its_start(number: u64, _at_us: u64) -> Option<Flaw> {
    (number == 1).then_some(Flaw::Ends(1_000))
}

/// The store is told to switch to what was good before.
fn is_back(work: &Work, number: u64) -> bool {
    matches!(work, Work::Switch { to, prepares: false, .. } if *to == generations::id(number))
}

/// The store is told to switch to the new one.
fn is_to_new(work: &Work) -> bool {
    matches!(work, Work::Switch { to, .. } if *to == generations::id(1))
}

fn deploy(number: u64) -> Doing {
    let order = OperatorOrder::Deploy { service: name(0), generation: generations::id(number), force: false };
    Doing::Order(Fault::Deploy, order)
}

fn rollback() -> Doing {
    Doing::Order(Fault::OrderRollback, OperatorOrder::Rollback { service: name(0), to: None })
}

fn restart() -> Doing {
    Doing::Order(Fault::OrderRestart, OperatorOrder::Restart { service: name(0) })
}

/// The one before it cannot read what it leaves.
fn moves(undoes: bool) -> Data {
    Data { format: 1, min_rollback: 1, undoes, snapshot: undoes.then(|| String::from("tank/data@7")) }
}

fn service(rollback: Rollback) -> ServicePolicy {
    let mut policy = default_service();
    policy.checks = vec![default_check(CheckKind::Tcp { address: String::from("127.0.0.1:1") })];
    policy.checks[0].every = Span::from_ms(30);
    policy.restart.crash_loop = Some(CrashLoop { failures: 3, within: Span::from_secs(60) });
    policy.restart.held_delay = Span::from_ms(500);
    policy.generations = Some(GenerationsPolicy {
        store: StoreKind::Release,
        probation: Span::from_ms(80),
        soak: Span::from_ms(80),
        keep: 3,
        recent: Span::from_secs(3_600),
        rollbacks_per_day: 3,
        rollback,
        files: Vec::new(),
    });
    policy
}

pub(super) fn scenario(story: &Story, crash: Option<Crash>) -> Scenario {
    let mut policy = service(story.rollback);
    if story.first.is_none() {
        // What it runs is in its release: it waits for one.
        policy.directory = None;
    }
    let mut scenario = Scenario::plain(BTreeMap::from([(name(0), Arc::new(policy))]), Span::from_secs(4));
    scenario.crash = crash;
    scenario.generations.first = BTreeMap::from([(name(0), story.first.map(generations::id))]);
    scenario.generations.doings = story.doings.clone();
    scenario.generations.data.extend(story.data.clone().map(|data| ((name(0), generations::id(1)), data)));
    scenario.generations.works = Some(Arc::new(story.works));
    let flaw = story.flaw;
    scenario.generations.script = Some(Arc::new(move |_: &Name, generation: &GenerationId, at_us| {
        let number = generation.as_str().trim_start_matches('g').parse().expect("a number");
        flaw(number, at_us)
    }));
    scenario
}

/// The story of a release that moves the data forward and fails, so that what it did is undone.
#[must_use]
pub fn of_data() -> Scenario {
    let undoes = |story: &Story| story.data.as_ref().is_some_and(|data| data.undoes);
    scenario(&stories().into_iter().find(undoes).expect("there is one"), None)
}

/// A story of files beside releases: an edit that fails with the next process, and then a release that fails once it is committed.
#[must_use]
pub fn of_files() -> Scenario {
    let edit = Doing::Outside(name(0), Part::Files, generations::files(1));
    let doings = vec![(AT, edit), (AT + 50_000, restart()), (AT + 400_000, deploy(1))];
    let mut scenario = scenario(&Story { doings, ..story("files beside releases", ends::any_good) }, None);
    let policies =
        scenario.policy.services.values_mut().filter_map(|service| Arc::make_mut(service).generations.as_mut());
    policies.for_each(|policy| policy.files.push(String::from("/etc/s0000.conf")));
    let flaws = [(generations::files(1), Flaw::Ends(1_000)), (generations::id(1), Flaw::Ends(300_000))];
    scenario.generations.files = BTreeMap::from([(name(0), generations::files(0))]);
    scenario.generations.flawed = flaws.into_iter().map(|(id, flaw)| ((name(0), id), flaw)).collect();
    scenario.generations.script = None;
    scenario
}

/// The story of a deploy amidst which somebody else switches, so long after it was ordered.
#[must_use]
pub fn of_somebody_else(later_us: u64) -> Scenario {
    let theirs = (AT + later_us, Doing::Outside(name(0), Part::Store, generations::id(2)));
    let doings = vec![(AT, deploy(1)), theirs];
    scenario(&Story { doings, ..story("somebody else switches amidst a deploy", ends::good_release) }, None)
}

pub(super) fn stories() -> Vec<Story> {
    let mut all = of_releases();
    all.extend(of_what_fails());
    all
}

/// Stores and programs do what they are told.
fn of_releases() -> Vec<Story> {
    vec![
        story("a good release is deployed", ends::good_release),
        Story {
            flaw: crashes_at_its_start,
            ..story("a release is deployed that crashes at its start", ends::old_release)
        },
        Story {
            flaw: |number, _| (number == 1).then_some(Flaw::Wrong(40_000)),
            ..story("a release is deployed that answers wrongly after half of its probation", ends::old_release)
        },
        Story {
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(300_000)),
            ..story("a release that was committed begins to crash, and the ladder takes it back", ends::old_release)
        },
        Story {
            flaw: |_, at| match at {
                0..600_000 => Some(Flaw::Ends(600_000_u64.saturating_sub(at))),
                600_000..2_000_000 => Some(Flaw::Ends(1_000)),
                _ => None,
            },
            ..story("nothing works any more, whatever is taken back", ends::any_good)
        },
        Story {
            flaw: |number, at| match (number, at) {
                (1, 0..400_000) => Some(Flaw::Ends(400_000 - at)),
                (1, 400_000..600_000) => Some(Flaw::Ends(1_000)),
                // Long enough to be healthy.
                (0, 400_000..1_200_000) => Some(Flaw::Ends(60_000)),
                _ => None,
            },
            ..story(
                "what was good fails in the same way a moment later, and what was taken back is put back",
                ends::any_good,
            )
        },
        Story {
            doings: vec![(AT, deploy(1)), (AT + 300_000, rollback())],
            flaw: crashes_at_its_start,
            rollback: Rollback::Ask,
            ..story(
                "a release that crashes at its start is held until an operator rolls it back (`rollback = \"ask\"`)",
                ends::asks,
            )
        },
        Story {
            doings: vec![(AT, deploy(1)), (AT + 60_000, rollback())],
            ..story("an operator rolls back a change on probation", ends::rolled_back)
        },
        Story {
            doings: vec![(AT, deploy(1)), (AT + 400_000, rollback())],
            ..story("an operator rolls back a change that was committed", ends::rolled_back)
        },
        Story { first: None, ..story("the first release is deployed", ends::first_release) },
        Story {
            first: None,
            doings: vec![(AT, deploy(1)), (AT + 200_000, deploy(2))],
            flaw: crashes_at_its_start,
            ..story("the first release crashes at its start, and the next one is deployed", ends::next_release)
        },
        Story {
            doings: vec![(AT, Doing::Outside(name(0), Part::Store, generations::id(1))), (AT + 50_000, restart())],
            flaw: crashes_at_its_start,
            ..story("somebody else switches to a release that crashes", ends::theirs)
        },
        Story {
            flaw: crashes_at_its_start,
            data: Some(moves(true)),
            ..story(
                "a release that moves the data forward crashes at its start, and brings what undoes that",
                ends::old_release,
            )
        },
        Story {
            flaw: |number, at| (number == 1 && at < 1_000_000).then_some(Flaw::Ends(1_000)),
            data: Some(moves(false)),
            ..story(
                "a release that moves the data forward, which nothing undoes, does not work for a while",
                ends::any_good,
            )
        },
    ]
}

/// Stores, or programs that releases bring, fail.
fn of_what_fails() -> Vec<Story> {
    vec![
        Story {
            works: |work, _| if is_to_new(work) { Comes::Fails } else { Comes::Done },
            ..story("a release is deployed that the store does not switch to", ends::aborted)
        },
        Story {
            works: |work, _| if is_to_new(work) { Comes::FailsAfter } else { Comes::Done },
            ..story("a release is deployed that the store switches to, and says that it did not", ends::undone)
        },
        Story {
            flaw: crashes_at_its_start,
            works: |work, at| if is_back(work, 0) && at < 1_000_000 { Comes::Fails } else { Comes::Done },
            ..story("a release crashes at its start, and the store does not go back for a while", ends::old_release)
        },
        Story {
            flaw: crashes_at_its_start,
            works: |work, _| if is_back(work, 0) { Comes::Unusable } else { Comes::Done },
            ..story("a release crashes at its start, and what was good before it is damaged", ends::damaged_way_back)
        },
        Story {
            doings: vec![(AT, deploy(1)), (AT + 400_000, deploy(2))],
            flaw: |number, _| (number == 2).then_some(Flaw::Ends(1_000)),
            works: |work, _| if is_back(work, 1) { Comes::Unusable } else { Comes::Done },
            ..story(
                "a release crashes at its start, what was good before it is damaged, and an older one is not",
                ends::further_back,
            )
        },
        Story {
            flaw: |number, _| (number == 1).then_some(Flaw::Ends(300_000)),
            works: |work, _| if is_back(work, 0) { Comes::Fails } else { Comes::Done },
            ..story(
                "a release that was committed begins to crash, and the store does not go back as the ladder says",
                ends::no_way_back,
            )
        },
        Story {
            data: Some(moves(true)),
            works: |work, _| if is_to_new(work) { Comes::HookFails } else { Comes::Done },
            ..story("a release is deployed whose `before_switch` fails", ends::aborted)
        },
        Story {
            flaw: crashes_at_its_start,
            data: Some(moves(true)),
            works: |work, _| if matches!(work, Work::Undo { .. }) { Comes::HookFails } else { Comes::Done },
            ..story("a release crashes at its start, and its `after_rollback` fails", ends::unknown_data)
        },
    ]
}
