//! What one seed means: which services with which policies, which faults how often and for how long.

use crate::crash::Crash;
use crate::dependency::{self, Downs};
use crate::fate::MEMORY_BOUND;
use crate::fate::{Fate, USUAL_UP_US};
use crate::fault::{Fault, Rates};
use crate::generations::{self, Generations};
use crate::reload::{self, Reload};
use crate::rng::{Purpose, Rng};
use hale_core::ids::{Epoch, GenerationId, Name};
use hale_core::policy::{
    CheckKind, CheckPolicy, CrashLoop, Figure, HostPolicy, HttpCheck, ListenAddress, LogPolicy, LoopLagCheck,
    MemoryBound, MetricCheck, Mode, Policy, ProgressCheck, Ready, ResourceLimits, RestartPolicy, Series, ServicePolicy,
    Signal, Source, StartPolicy, StopPolicy, SystemPolicy,
};
use hale_core::safeswitch::Parts;
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// When Hale begins on the monotonic clock; not zero, so that nothing mistakes "never" for "at the beginning".
pub const BEGIN_US: u64 = 1_000_000;

/// Decides the life of a process instead of the dice; `None`: the dice decide after all. Its arguments are the
/// service, the process's number and the time since the beginning in microseconds.
pub type Script = Arc<dyn Fn(&Name, Epoch, u64) -> Option<Fate> + Send + Sync>;

/// All that a run depends on.
#[derive(Clone)]
pub struct Scenario {
    /// Seeds everything that is drawn while it runs.
    pub seed: u64,
    /// What Hale is told to do.
    pub policy: Policy,
    /// How often the world misbehaves.
    pub rates: Rates,
    /// How long it misbehaves, in microseconds from the beginning.
    pub faults_us: u64,
    /// When Hale is told to end while there are faults, in microseconds from the beginning.
    pub end_us: Option<u64>,
    /// When it is told again, in microseconds after the first time.
    pub end_again_us: Option<u64>,
    /// Whether operators start everything again when the faults are over.
    pub start_all: bool,
    /// Whether Hale is told to end once everything is healthy again.
    pub end_after: bool,
    /// Which wall clock: the same scenario with another one must lead to the same decisions.
    pub wall: u64,
    /// When dependencies are down.
    pub downs: Downs,
    /// When no probe of a service gets through.
    pub mute: Vec<(u64, u64)>,
    /// Other policies that come into force.
    pub reloads: Vec<Reload>,
    /// What services' generations are, and what is done to them.
    pub generations: Generations,
    /// A death that is not drawn.
    pub crash: Option<Crash>,
    /// Lives that are not drawn.
    pub script: Option<Script>,
}

/// What is taken away from a seed, to replay or shrink it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Only the first so many services.
    pub services: Option<usize>,
    /// Only these faults.
    pub faults: Option<Vec<Fault>>,
    /// Faults end so many milliseconds after the beginning at the latest.
    pub until_ms: Option<u64>,
}

/// The name of service number `index`.
#[must_use]
pub fn name(index: usize) -> Name {
    Name::try_from(format!("s{index:04}")).expect("a letter and digits are a name")
}

/// When no probe gets through.
fn mute(rng: &mut Rng, rates: &Rates, faults_us: u64) -> Vec<(u64, u64)> {
    let times = if rates.of(Fault::ProbingFails) == 0 { 0 } else { 1 + rates.of(Fault::ProbingFails) / 200 };
    let time = |_| {
        let from = rng.scaled(1, faults_us);
        (from, (from + rng.scaled(10_000, 30_000_000)).min(faults_us))
    };
    (0..times).map(time).collect()
}

impl Scenario {
    /// What `seed` means, within `limits`.
    #[must_use]
    pub fn draw(seed: u64, limits: &Limits) -> Self {
        let mut rng = Rng::new(seed, Purpose::Shape, 0, 0);
        let slow = rng.chance(150);
        // Now and then more than one step of the core starts (SERVICES_PER_STEP).
        let crowd = rng.chance(10);
        let mut services = if crowd { 70 } else { usize::try_from(rng.scaled(1, 12)).unwrap_or(1) };
        let mut faults_us = if slow { rng.within(300, 2_400) * 1_000_000 } else { rng.scaled(1_000_000, 20_000_000) };
        if crowd {
            faults_us = faults_us.min(3_000_000);
        }
        let mut rates = Rates::draw(&mut rng);
        let host = HostPolicy {
            state_dir: String::from("/var/lib/hale"),
            runtime_dir: String::from("/run/hale"),
            log_dir: String::from("/var/log/hale"),
            mode: if rng.chance(50) { Mode::Observe } else { Mode::Heal },
            restarts_in_flight: rng.pick(&[1, 1, 2, 4, 16]),
            hardware_watchdog: None,
            as_init: Default::default(),
        };
        let (start_all, end_after) = (rng.chance(500), rng.chance(300));
        let whole = services;
        services = limits.services.map_or(services, |most| services.min(most.max(1)));
        faults_us = limits.until_ms.map_or(faults_us, |most| faults_us.min(most.saturating_mul(1_000)));
        if let Some(kept) = &limits.faults {
            rates.keep_only(kept);
        }
        let mut end = Rng::new(seed, Purpose::End, 0, 0);
        let end_us = end.chance(rates.of(Fault::End)).then(|| end.scaled(1, faults_us));
        let again = end_us.is_some() && end.chance(rates.of(Fault::EndTwice));
        let end_again_us = again.then(|| end.scaled(1, 5_000_000));
        let kept = 0..services;
        let dependencies = dependency::draw(seed, slow);
        let services = kept.clone().map(|index| {
            let mut service = draw_service(seed, index, whole, slow, crowd);
            service.after.retain(|on| kept.clone().any(|index| name(index) == *on));
            service.after.extend(dependency::needs(seed, index, dependencies.len()));
            service.after.sort();
            (name(index), Arc::new(service))
        });
        let services = services.collect();
        let mut policy = Policy { host, services, system: SystemPolicy::default(), dependencies };
        if limits.faults.as_ref().is_none_or(|kept| kept.contains(&Fault::Reload)) {
            reload::draw_rate(seed, &mut rates);
        }
        let mut starved = Rng::new(seed, Purpose::Starved, 0, 0);
        if limits.faults.as_ref().is_none_or(|kept| kept.contains(&Fault::Starved)) && starved.chance(400) {
            rates.set(Fault::Starved, starved.pick(&[10, 50, 200, 500, 900]));
        }
        let mut probing = Rng::new(seed, Purpose::Probing, 0, 0);
        if limits.faults.as_ref().is_none_or(|kept| kept.contains(&Fault::ProbingFails)) && probing.chance(400) {
            rates.set(Fault::ProbingFails, probing.pick(&[10, 50, 200, 500, 900]));
        }
        if rates.of(Fault::Reload) > 0 {
            // What a journal forgets that cannot be written, a policy included, is another story.
            rates.leave_out(Fault::JournalFull);
        }
        generations::draw_policies(seed, &mut policy, slow, crowd);
        let kept = limits.faults.as_deref();
        let generations = generations::draw(seed, &mut rates, kept, &policy, faults_us, slow);
        let dependencies = policy.dependencies.clone();
        Self {
            seed,
            generations,
            reloads: reload::draw(seed, &rates, faults_us, &policy, slow),
            downs: dependency::downs(seed, &rates, faults_us, &dependencies),
            mute: mute(&mut probing, &rates, faults_us),
            policy,
            rates,
            faults_us,
            end_us,
            end_again_us,
            start_all,
            end_after,
            wall: 0,
            crash: None,
            script: None,
        }
    }

    /// A world without faults, for scenarios that say themselves what happens.
    #[must_use]
    pub fn plain(services: BTreeMap<Name, Arc<ServicePolicy>>, faults: Span) -> Self {
        let host = HostPolicy {
            state_dir: String::from("/var/lib/hale"),
            runtime_dir: String::from("/run/hale"),
            log_dir: String::from("/var/log/hale"),
            mode: Mode::Heal,
            restarts_in_flight: 16,
            hardware_watchdog: None,
            as_init: Default::default(),
        };
        Self {
            seed: 1,
            reloads: Vec::new(),
            downs: Downs::default(),
            mute: Vec::new(),
            policy: Policy { host, services, system: SystemPolicy::default(), dependencies: BTreeMap::new() },
            rates: Rates::none(),
            faults_us: faults.as_us(),
            end_us: None,
            end_again_us: None,
            start_all: false,
            end_after: false,
            wall: 0,
            generations: Generations::default(),
            crash: None,
            script: None,
        }
    }

    /// Whether no probe of a service gets through so many microseconds after the beginning.
    #[must_use]
    pub fn is_mute(&self, at_us: u64) -> bool {
        self.mute.iter().any(|(from, to)| (*from..*to).contains(&at_us))
    }

    /// The life of a process of these generations that is made `at_us` after the beginning.
    #[must_use]
    pub fn fate(&self, service: &Name, epoch: Epoch, at_us: u64, runs: &Parts<Option<GenerationId>>) -> Fate {
        self.fate_but_for_flaws(service, epoch, at_us).flawed(self.generations.flaw(service, runs, at_us))
    }

    fn fate_but_for_flaws(&self, service: &Name, epoch: Epoch, at_us: u64) -> Fate {
        if let Some(fate) = self.script.as_ref().and_then(|script| script(service, epoch, at_us)) {
            return fate;
        }
        let index = self.index(service);
        if at_us >= self.faults_us {
            return Fate::good(&mut Rng::new(self.seed, Purpose::Fate, index, epoch.0 << 8));
        }
        let policy = &self.policy.services[service];
        Fate::draw(self.seed, &self.rates, index, epoch.0, policy, self.faults_us)
    }

    /// The number of a service.
    #[must_use]
    pub fn index(&self, service: &Name) -> u64 {
        service.as_str().trim_start_matches('s').parse().unwrap_or(u64::MAX)
    }
}

/// `[service]` with the documented defaults, for scenarios that change only what they are about.
#[must_use]
pub fn default_service() -> ServicePolicy {
    ServicePolicy {
        command: vec![String::from("/bin/service")],
        directory: Some(String::from("/")),
        user: None,
        environment: BTreeMap::new(),
        environment_files: Vec::new(),
        after: Vec::new(),
        open_files_limit: None,
        limits: ResourceLimits::default(),
        listen: BTreeMap::new(),
        start: StartPolicy { ready: Ready::Running, within: Span::from_secs(30) },
        stop: StopPolicy { signal: Signal::TERM, grace: Span::from_secs(10) },
        restart: RestartPolicy {
            first_delay: Span::ZERO,
            delay: Span::from_ms(100),
            max_delay: Span::from_secs(30),
            healthy_after: Span::from_secs(60),
            crash_loop: Some(CrashLoop { failures: 5, within: Span::from_secs(60) }),
            held_delay: Span::from_secs(300),
            on_success: true,
            before_limit: None,
        },
        log: LogPolicy { max_size_bytes: 64 << 20, keep: 8, rate_bytes: 16 << 20 },
        checks: Vec::new(),
        generations: None,
    }
}

/// A check with the documented defaults.
#[must_use]
pub fn default_check(kind: CheckKind) -> CheckPolicy {
    CheckPolicy {
        name: Name::try_from(kind.as_str()).expect("kinds are names"),
        kind,
        every: Span::from_secs(2),
        timeout: Span::from_secs(1),
        failures: 3,
        successes: 1,
        confirm: Vec::new(),
    }
}

/// Where a service stands in its seed's order of starts, which has nothing to do with the order of names.
fn rank(seed: u64, index: usize) -> (u64, usize) {
    (Rng::new(seed, Purpose::Policy, index as u64, 1).bits(), index)
}

/// Service number `index` of `whole`.
fn draw_service(seed: u64, index: usize, whole: usize, slow: bool, crowd: bool) -> ServicePolicy {
    let mut rng = Rng::new(seed, Purpose::Policy, index as u64, 0);
    let checks = if crowd { rng.pick(&[0, 0, 0, 1]) } else { rng.pick(&[0, 1, 1, 1, 2, 3]) };
    let checks: Vec<CheckPolicy> = (0..checks).map(|number| draw_check(&mut rng, number, slow)).collect();
    let ready = match (rng.below(3), checks.is_empty()) {
        (0, _) => Ready::Running,
        (1, _) | (_, true) => Ready::Notify,
        (_, false) => Ready::Check,
    };
    let needed = needed(&checks);
    let (short, long) = if slow { (1_000, 300_000) } else { (10, 5_000) };
    let delay = if rng.chance(100) { Span::ZERO } else { Span::from_ms(rng.scaled(1, long / 5)) };
    let first_delay = rng.pick(&[0, 0, 0, 1]) * rng.scaled(1, 500);
    let grace = rng.pick(&[0, 1, 1, 1]) * rng.scaled(10, long);
    let crash_loop = (!rng.chance(300)).then(|| CrashLoop {
        failures: rng.pick(&[1, 2, 3, 5, 8]),
        within: Span::from_ms(rng.scaled(short, 10 * long)),
    });
    let mut drawn = || {
        let on = usize::try_from(rng.below(whole as u64)).unwrap_or(0);
        (rng.chance(500) && rank(seed, on) < rank(seed, index)).then(|| name(on))
    };
    let mut after: Vec<Name> = (0..2).filter_map(|_| drawn()).collect();
    after.sort();
    after.dedup();
    ServicePolicy {
        after,
        start: StartPolicy { ready, within: needed.times(rng.within(1, 4)) },
        stop: StopPolicy { signal: Signal::TERM, grace: Span::from_ms(grace) },
        restart: RestartPolicy {
            first_delay: Span::from_ms(first_delay),
            delay,
            max_delay: delay.times(rng.pick(&[1, 4, 32])),
            healthy_after: Span::from_ms(rng.scaled(short, long)),
            crash_loop,
            held_delay: Span::from_ms(rng.scaled(short, long)),
            on_success: rng.chance(700),
            before_limit: rng.chance(800).then(|| Span::from_ms(rng.within(long / 20, long / 4))),
        },
        checks,
        ..default_service()
    }
}

/// What a well-behaved process needs to become ready: a policy that nobody can fulfil has no healthy services.
pub(crate) fn needed(checks: &[CheckPolicy]) -> Span {
    let needs = |check: &CheckPolicy| check.kind.promise().unwrap_or(check.every).times(u64::from(check.successes) + 1);
    checks.iter().map(needs).max().unwrap_or_default().plus(Span::from_us(4 * USUAL_UP_US))
}

fn draw_measured(rng: &mut Rng) -> CheckKind {
    let (url, name) = (String::from("http://127.0.0.1:1/metrics"), String::from("jobs"));
    let series = Series { name, labels: BTreeMap::new() };
    let source = Source::Metric { url: url.clone(), series: series.clone() };
    match rng.below(4) {
        0 => CheckKind::Grpc { address: String::from("127.0.0.1:1"), service: String::new() },
        1 => {
            let below = Some(Figure(String::from("9")));
            CheckKind::Metric(MetricCheck { url, series, above: None, below, increases_within: None })
        }
        2 => CheckKind::Progress(ProgressCheck { within: Span::from_secs(9), source, while_pending: None }),
        _ => CheckKind::LoopLag(LoopLagCheck { below: Span::from_ms(9), source }),
    }
}

pub(crate) fn draw_check(rng: &mut Rng, number: u64, slow: bool) -> CheckPolicy {
    let pace = if slow { 100 } else { 1 };
    let timeout = Span::from_ms(rng.scaled(20, 1_500) * if slow { 10 } else { 1 });
    let address = String::from("127.0.0.1:1");
    let kind = match rng.below(16) {
        0..=2 => CheckKind::Tcp { address },
        3..=4 => CheckKind::Exec { command: vec![String::from("/bin/check")], user: None },
        5..=6 => CheckKind::Memory { below: MemoryBound::Bytes(MEMORY_BOUND) },
        7 => CheckKind::Cpu { below_percent: 90, window: Span::from_secs(60) },
        8 => CheckKind::OpenFiles { below: 900 },
        9 => CheckKind::Listen { address: ListenAddress::Unix(String::from("/run/service")) },
        13 => draw_measured(rng),
        10..=12 => CheckKind::Heartbeat { within: Span::from_ms(rng.scaled(200, 3_000) * if slow { 20 } else { 1 }) },
        _ => CheckKind::Http(HttpCheck {
            url: String::from("http://127.0.0.1:1/health"),
            ca_file: None,
            method: String::from("GET"),
            headers: BTreeMap::new(),
            status: vec![200],
            body_contains: None,
            json: BTreeMap::new(),
            faster_than: rng.chance(600).then(|| Span::from_us(timeout.as_us() / 2)),
        }),
    };
    CheckPolicy {
        name: Name::try_from(format!("c{number}")).expect("a letter and digits are a name"),
        every: Span::from_ms(rng.scaled(20, 1_000) * pace),
        timeout,
        failures: rng.pick(&[1, 2, 3, 5]),
        successes: rng.pick(&[1, 1, 1, 2, 3]),
        confirm: Vec::new(),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_take_away_and_shift_nothing() {
        let whole = Scenario::draw(9, &Limits::default());
        let less =
            Scenario::draw(9, &Limits { services: Some(1), faults: Some(vec![Fault::Crash]), until_ms: Some(10) });
        let but_for_order = |scenario: &Scenario| ServicePolicy {
            after: Vec::new(),
            ..ServicePolicy::clone(&scenario.policy.services[&name(0)])
        };
        assert_eq!(but_for_order(&less), but_for_order(&whole));
        let others = |on: &&Name| !less.policy.dependencies.contains_key(*on);
        assert_eq!(less.policy.services[&name(0)].after.iter().find(others), None, "there is nobody else");
        assert_eq!(less.rates.of(Fault::Crash), whole.rates.of(Fault::Crash));
        assert_eq!((less.policy.services.len(), less.faults_us), (1, 10_000));
        assert_eq!(less.rates.of(Fault::Hang), 0);
    }

    #[test]
    fn services_start_after_earlier_and_later_names_and_never_in_a_circle() {
        let (mut earlier, mut later) = (0, 0);
        for seed in 0..200 {
            let scenario = Scenario::draw(seed, &Limits::default());
            let place = |name: &Name| rank(seed, usize::try_from(scenario.index(name)).unwrap());
            for (name, policy) in &scenario.policy.services {
                for on in policy.after.iter().filter(|on| scenario.policy.services.contains_key(*on)) {
                    assert!(place(on) < place(name), "seed {seed}");
                    *if on < name { &mut earlier } else { &mut later } += 1;
                }
            }
        }
        assert!(earlier > 100 && later > 100, "{earlier} {later}");
    }
}
