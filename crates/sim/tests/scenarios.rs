//! Named failures of the field, each as a world that says itself what happens.

use hale_core::event::{Event, ExitStatus, Question};
use hale_core::ids::{Epoch, Name, RequestId};
use hale_core::incident::Outcome;
use hale_core::policy::{CheckKind, Mode, Ready, ServicePolicy, Signal, StartPolicy};
use hale_core::record::{Actor, Body, OperatorOrder, Record};
use hale_core::step::step;
use hale_core::time::{Monotonic, Now, Span};
use hale_sim::fate::Fate;
use hale_sim::rng::{Purpose, Rng};
use hale_sim::run::{Run, run, world};
use hale_sim::scenario::{Scenario, default_check, default_service, name};
use std::collections::BTreeMap;
use std::sync::Arc;

const KILLED: ExitStatus = ExitStatus::Signal { signal: Signal::KILL, core_dumped: false };

fn good() -> Fate {
    Fate::good(&mut Rng::new(1, Purpose::Fate, 0, 0))
}

fn one(policy: ServicePolicy, faults: Span) -> Scenario {
    Scenario::plain(BTreeMap::from([(name(0), Arc::new(policy))]), faults)
}

fn tcp() -> CheckKind {
    CheckKind::Tcp { address: String::from("127.0.0.1:1") }
}

/// Runs it; no oracle may object.
fn play(mut scenario: Scenario, fate: impl Fn(&Name, Epoch) -> Fate + Send + Sync + 'static) -> Run {
    scenario.script = Some(Arc::new(move |name, epoch, _| Some(fate(name, epoch))));
    let run = run(&scenario);
    assert_eq!(run.violations, []);
    run
}

fn starts_ms(run: &Run) -> Vec<u64> {
    let start = |record: &&Record| matches!(record.body, Body::SpawnIntended { .. });
    run.records.iter().filter(start).map(|record| record.at.mono.as_us() / 1_000).collect()
}

fn waits_ms(run: &Run) -> Vec<u64> {
    starts_ms(run).windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn count(run: &Run, is: impl Fn(&Body) -> bool) -> usize {
    run.records.iter().filter(|record| is(&record.body)).count()
}

/// systemd gives up for good after 5 starts within 10 s (StartLimitBurst).
#[test]
fn start_limit_trap_eight_kills_in_three_seconds_leave_a_service_alive() {
    let mut policy = default_service();
    policy.restart.crash_loop = None;
    policy.restart.delay = Span::ZERO;
    let run = play(one(policy, Span::from_secs(4)), |_, epoch| Fate {
        ends: (epoch.0 <= 8).then_some((300_000, KILLED)),
        ..good()
    });
    assert_eq!((starts_ms(&run).len(), count(&run, |body| matches!(body, Body::Held { .. }))), (9, 0));
}

#[test]
fn a_crash_loop_is_held_tried_again_ever_slower_and_recovers() {
    let run = play(one(default_service(), Span::from_secs(3_000)), |_, epoch| Fate {
        ends: (epoch.0 <= 7).then_some((10_000, KILLED)),
        ..good()
    });
    let held = |record: &Record| if let Body::Held { tries, .. } = record.body { Some(tries) } else { None };
    assert_eq!(run.records.iter().filter_map(held).collect::<Vec<_>>(), [0, 1, 2]);
    let waits = waits_ms(&run);
    for (wait, delay) in waits.iter().skip(4).zip([300_000, 600_000, 1_200_000]) {
        assert!((delay..=delay / 4 * 5 + 100).contains(wait), "{waits:?}");
    }
    assert_eq!(waits.len(), 7);
}

/// Without delays that grow, a broken service is restarted as fast as it fails.
#[test]
fn delays_double_from_the_second_failure_on_and_jitter_adds_at_most_a_quarter() {
    let mut policy = default_service();
    policy.restart.crash_loop = None;
    let run = play(one(policy, Span::from_secs(60)), |_, epoch| Fate {
        ends: (epoch.0 <= 6).then_some((1_000, KILLED)),
        ..good()
    });
    let waits = waits_ms(&run);
    assert_eq!(waits.len(), 6);
    for (wait, delay) in waits.iter().zip([0, 100, 200, 400, 800, 1_600]) {
        assert!((delay..=delay / 4 * 5 + 10).contains(wait), "{waits:?}");
    }
}

/// Delays that never reset: after a long healthy time one crash must not cost half a minute.
#[test]
fn delays_are_forgotten_after_healthy_after() {
    let mut policy = default_service();
    policy.restart.crash_loop = None;
    let run = play(one(policy, Span::from_secs(200)), |_, epoch| Fate {
        ends: match epoch.0 {
            1..=4 => Some((1_000, KILLED)),
            5 => Some((61_000_000, KILLED)),
            _ => None,
        },
        ..good()
    });
    assert!((61_000..61_010).contains(&waits_ms(&run)[4]), "{:?}", waits_ms(&run));
}

#[test]
fn a_service_that_never_becomes_healthy_is_restarted() {
    let mut policy = default_service();
    policy.start = StartPolicy { ready: Ready::Check, within: Span::from_secs(5) };
    policy.checks = vec![default_check(tcp())];
    let run = play(one(policy, Span::from_secs(6)), |_, epoch| Fate {
        up_after: (epoch.0 > 1).then_some(1_000),
        ignores_term: false,
        ..good()
    });
    // And as long as the look at it may take.
    assert!((5_000..5_200).contains(&waits_ms(&run)[0]), "{:?}", waits_ms(&run));
}

#[test]
fn nothing_is_started_beside_what_survives_sigkill() {
    let mut policy = default_service();
    policy.stop.grace = Span::ZERO;
    policy.checks = vec![default_check(tcp())];
    let run = play(one(policy, Span::from_secs(120)), |_, epoch| Fate {
        hangs_after: (epoch.0 == 1).then_some(1_000_000),
        survives_kill: (epoch.0 == 1).then_some(100_000_000),
        ..good()
    });
    assert_eq!(count(&run, |body| matches!(body, Body::Unkillable { .. })), 1);
    assert!(waits_ms(&run).len() == 1 && waits_ms(&run)[0] > 100_000, "{:?}", waits_ms(&run));
}

/// The loop once spun here: nothing ended the deadline of the start.
#[test]
fn observing_a_start_that_takes_too_long_tells_it_once() {
    let mut policy = default_service();
    policy.start = StartPolicy { ready: Ready::Notify, within: Span::from_secs(1) };
    let mut scenario = one(policy, Span::from_secs(5));
    scenario.policy.host.mode = Mode::Observe;
    let run = play(scenario, |_, _| Fate { up_after: None, ..good() });
    assert_eq!(count(&run, |body| matches!(body, Body::Detected { .. })), 1);
}

/// With `failures = 1` this was once never acted upon: the one failure came before failures led to anything.
#[test]
fn a_service_that_breaks_between_its_first_pass_and_ready_is_restarted() {
    let mut policy = default_service();
    policy.start.ready = Ready::Notify;
    let mut check = default_check(tcp());
    (check.every, check.timeout, check.failures) = (Span::from_ms(100), Span::from_ms(50), 1);
    policy.checks = vec![check];
    let run = play(one(policy, Span::from_secs(20)), |_, epoch| Fate {
        wrong_after: (epoch.0 == 1).then_some(500_000),
        says_ready_after: 3_000_000,
        up_after: Some(1_000),
        ..good()
    });
    assert_eq!(starts_ms(&run).len(), 2);
}

/// What cannot be killed once kept those that it starts after from being ended.
#[test]
fn the_end_does_not_wait_for_what_cannot_be_killed() {
    let mut behind = default_service();
    behind.after = vec![name(0)];
    let services = BTreeMap::from([(name(0), Arc::new(default_service())), (name(1), Arc::new(behind))]);
    let mut scenario = Scenario::plain(services, Span::from_secs(2));
    scenario.end_us = Some(1_000_000);
    let run = play(scenario, |service, _| Fate {
        ignores_term: *service == name(1),
        survives_kill: (*service == name(1)).then_some(u64::MAX / 4),
        ..good()
    });
    assert_eq!(count(&run, |body| matches!(body, Body::Stopped { .. })), 1);
}

/// Restarts without delay once gave their places back before they had used them.
#[test]
fn restarts_at_once_take_their_places_too() {
    let services = (0..10).map(|index| (name(index), Arc::new(default_service()))).collect();
    let mut scenario = Scenario::plain(services, Span::from_secs(5));
    scenario.policy.host.restarts_in_flight = 1;
    let run = play(scenario, |_, epoch| Fate { ends: (epoch.0 == 1).then_some((1_000_000, KILLED)), ..good() });
    assert!(count(&run, |body| matches!(body, Body::Waits { .. })) > 0);
}

#[test]
fn a_thousand_services_ten_levels_deep_start_and_end_in_order() {
    let policy = |index: usize| {
        let mut policy = default_service();
        policy.start.ready = Ready::Notify;
        if let Some(below) = index.checked_sub(100) {
            policy.after = vec![name(below)];
        }
        Arc::new(policy)
    };
    let services = (0..1_000).map(|index| (name(index), policy(index))).collect();
    let mut scenario = Scenario::plain(services, Span::from_secs(1));
    scenario.end_after = true;
    let run = play(scenario, |_, _| good());
    assert_eq!(starts_ms(&run).len(), 1_000);
    assert_eq!(count(&run, |body| matches!(body, Body::Stopped { .. })), 1_000);
}

#[test]
fn observing_what_a_crash_left_behind_closes_the_incident_and_leaves_it_alone() {
    let mut scenario = one(default_service(), Span::from_secs(5));
    scenario.policy.host.mode = Mode::Observe;
    let run = play(scenario, |_, _| Fate { ends: Some((1_000_000, KILLED)), strays: 2, ..good() });
    let observed = |body: &Body| matches!(body, Body::IncidentClosed { outcome: Outcome::Observed, .. });
    assert_eq!((count(&run, observed), count(&run, |body| matches!(body, Body::KillIntended { .. }))), (1, 0));
}

/// A dependency dies, and the service that needs it notices within 100 ms; Hale would look at the dependency seconds later.
#[test]
fn a_service_that_sees_first_that_its_dependency_died_is_not_restarted() {
    let mut policy = default_service();
    let mut check = default_check(tcp());
    (check.every, check.timeout, check.failures) = (Span::from_ms(100), Span::from_ms(50), 1);
    (policy.checks, policy.start.ready) = (vec![check], Ready::Check);
    let api = hale_sim::dependency::name(0);
    policy.after = vec![api.clone()];
    let mut scenario = one(policy, Span::from_secs(40));
    let mut outside = default_check(tcp());
    (outside.every, outside.timeout) = (Span::from_secs(20), Span::from_secs(1));
    let checks = vec![outside];
    let dependency = Arc::new(hale_core::policy::DependencyPolicy { checks });
    scenario.policy.dependencies = BTreeMap::from([(api.clone(), dependency)]);
    scenario.downs = hale_sim::dependency::Downs::new(BTreeMap::from([(api, vec![(5_000_000, 25_000_000)])]));
    scenario.rates = hale_sim::fault::Rates::always(hale_sim::fault::Fault::DependencyHurts);
    let run = play(scenario, |_, _| good());
    assert_eq!(starts_ms(&run).len(), 1);
    let environmental = |body: &Body| matches!(body, Body::IncidentClosed { outcome: Outcome::Environmental, .. });
    let blocked = |body: &Body| matches!(body, Body::RunsBlocked { .. });
    assert_eq!((count(&run, environmental), count(&run, blocked)), (1, 1));
}

/// More services than one step starts, and an order for one of those that wait: it was once started twice.
#[test]
fn an_order_for_a_service_that_is_queued_to_start_starts_it_once() {
    let services: BTreeMap<Name, Arc<ServicePolicy>> =
        (0..70).map(|index| (name(index), Arc::new(default_service()))).collect();
    let mut world = world(1, Scenario::plain(services, Span::ZERO).policy);
    let now = Now { mono: Monotonic::from_us(1), ..Now::default() };
    let order = OperatorOrder::Start { service: name(69) };
    let question = Question::Order { actor: Actor { uid: 0, pid: 1, user: None }, order, waits: true };
    let events = [
        // Without a disk an order is carried out at once.
        Event::LedgerDegraded { error: String::from("No space left on device") },
        Event::Begin,
        // Right behind Begin, before the queue is empty.
        Event::Asked { request: RequestId(1), question },
        Event::Tick,
    ];
    let mut bodies: Vec<Body> = Vec::new();
    for event in events {
        bodies.extend(step(&mut world, now, event).records.into_iter().map(|record| record.body));
    }
    assert!(!bodies.iter().any(|body| matches!(body, Body::Violated { .. })), "{bodies:?}");
    assert_eq!(bodies.iter().filter(|body| matches!(body, Body::SpawnIntended { .. })).count(), 70);
}

/// Told to end a second time, what was on its way up once kept its place among restarts_in_flight.
#[test]
fn the_second_end_kills_what_is_being_restarted() {
    let mut policy = default_service();
    policy.start.ready = Ready::Notify;
    let mut behind = policy.clone();
    behind.after = vec![name(0)];
    let services = BTreeMap::from([(name(0), Arc::new(policy)), (name(1), Arc::new(behind))]);
    let mut scenario = Scenario::plain(services, Span::from_secs(5));
    (scenario.end_us, scenario.end_again_us) = (Some(2_000_000), Some(1_000));
    let run = play(scenario, |service, epoch| Fate {
        ends: (*service == name(0) && epoch.0 == 1).then_some((1_000_000, KILLED)),
        up_after: (*service == name(1) || epoch.0 == 1).then_some(1_000),
        ignores_term: true,
        ..good()
    });
    assert_eq!(count(&run, |body| matches!(body, Body::KillIntended { .. })), 2);
}
