//! Guarantees about time: a small model of the delays, written from the configuration's documentation and not from
//! the core's rule.

use super::{Oracle, Seen};
use hale_core::ids::{Epoch, Name, RecordId};
use hale_core::plan::ladder::Verdict;
use hale_core::policy::{HELD_DELAY_MAX, Mode, Policy, RestartPolicy};
use hale_core::record::{Body, Record};
use hale_core::safeswitch::Move;
use hale_core::time::Span;
use std::collections::BTreeMap;

/// How late the loop may come to look at a counter that is to be forgotten, in microseconds: lateness of the fake
/// host, twice.
const LATE_US: u64 = 4_000_000;

/// What the model knows of one service.
#[derive(Debug, Clone, Default)]
struct Model {
    paused: bool,
    /// Its being held is on record, and not only decided.
    held_told: bool,
    newest: Epoch,
    failures: u32,
    recent: Vec<u64>,
    last_failure: Option<u64>,
    /// Tries since it was given up.
    held: Option<u32>,
    not_before: Option<u64>,
    ready_since: Option<u64>,
    healthy: bool,
    /// Orders that may make it forget.
    orders: u32,
    /// The record that may make it forget because it was switched just before.
    forgets: Option<RecordId>,
    /// Its newest process when it was switched last.
    switched: Option<Epoch>,
    /// Its newest process that has ended, or could not be started.
    ended: Epoch,
    /// It was healthy long enough, `LATE_US` ago: what was counted must be forgotten.
    overdue: bool,
}

/// Delays follow the policy, and nothing starts before its delay is over.
pub struct Delays {
    policy: Policy,
    models: BTreeMap<Name, Model>,
}

impl Delays {
    /// For what the operator wants.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        let models = policy.services.keys().map(|name| (name.clone(), Model::default())).collect();
        Self { policy: policy.clone(), models }
    }

    fn record(&mut self, now_us: u64, record: &Record) -> Result<(), String> {
        let Some(name) = &record.service else { return Ok(()) };
        let restart = &self.policy.services[name].restart;
        let observes = self.policy.host.mode == Mode::Observe;
        let Some(model) = self.models.get_mut(name) else { return Ok(()) };
        match &record.body {
            Body::Detected { blocked: Some(_), .. } => {
                (model.healthy, model.overdue) = (false, false);
                Ok(())
            }
            Body::Unblocked { .. } => {
                let Model { newest, ready_since, healthy, orders, paused, switched, ended, .. } = *model;
                let kept = Model { newest, ready_since, healthy, orders, paused, ..Model::default() };
                *model = Model { switched, ended, ..kept };
                Ok(())
            }
            Body::Detected { .. } => {
                let healthy_after = restart.healthy_after.as_us();
                let quiet_since = model.last_failure.unwrap_or(u64::MAX).max(model.ready_since.unwrap_or(u64::MAX));
                model.overdue = model.healthy && now_us > quiet_since.saturating_add(healthy_after + LATE_US);
                model.failures += 1;
                model.recent.push(now_us);
                model.last_failure = Some(now_us);
                model.healthy = false;
                Ok(())
            }
            Body::Decided(decision) => {
                if model.overdue {
                    return Err(format!("{name} was healthy for healthy_after, and its counters were not forgotten"));
                }
                let (expected, held) = model.expected(restart, now_us);
                match decision.choice.verdict.clone() {
                    Verdict::Observe if observes || model.paused => Ok(()),
                    _ if model.paused => Err(format!("{name}: decided to act in a pause")),
                    Verdict::Wait if !observes && decision.read.blocked.is_some() => Ok(()),
                    _ if observes => Err(format!("{name}: decided to act in mode observe")),
                    // The generations' own oracles say whether it may.
                    Verdict::TakeBack { .. } | Verdict::PutBack { .. } => Ok(()),
                    Verdict::Restart { delay } if !held => model.takes(name, now_us, expected, delay, false),
                    Verdict::Hold { delay, .. } if held => model.takes(name, now_us, expected, delay, true),
                    verdict => {
                        Err(format!("{name}: {verdict:?}, where hold is {held} after {} failures", model.failures))
                    }
                }
            }
            // Failures, delays and crash loops belong to the generation that runs.
            Body::Generation(Move::Switched { .. }) | Body::Files(Move::Switched { .. }) => {
                model.forgets = Some(record.id.next());
                model.switched = Some(model.newest);
                Ok(())
            }
            Body::SpawnIntended { epoch, .. } => {
                model.newest = *epoch;
                model.healthy = false;
                model.ready_since = None;
                model.held = model.held.map(|tries| tries + 1);
                match model.not_before.take() {
                    Some(at) if now_us < at => {
                        Err(format!("{name} epoch {epoch} starts {} us before its delay is over", at - now_us))
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Body::Held { .. } => {
                model.held_told = true;
                // It is held for what was there before.
                if model.switched.is_some_and(|newest| model.ended <= newest) {
                    model.forgets = Some(record.id.next());
                }
                Ok(())
            }
            // A start that was not recorded counts as the try that it was.
            Body::Adopted { epoch, .. } => {
                (model.healthy, model.ready_since, model.not_before) = (false, None, None);
                if *epoch > std::mem::replace(&mut model.newest, *epoch) {
                    // What was only decided, and then lost, was never so.
                    model.held = model.held.filter(|_| model.held_told).map(|tries| tries + 1);
                }
                Ok(())
            }
            Body::BecameReady { .. } => {
                model.ready_since = Some(now_us);
                Ok(())
            }
            Body::BecameHealthy { .. } => {
                model.healthy = true;
                Ok(())
            }
            Body::Exited { epoch, .. } | Body::SpawnFailed { epoch, .. } => {
                (model.healthy, model.ended) = (false, *epoch);
                Ok(())
            }
            Body::CheckFailed { .. } | Body::StopIntended { .. } | Body::KillIntended { .. } => {
                model.healthy = false;
                Ok(())
            }
            Body::Forgotten => {
                *model = Model { newest: model.newest, ..Model::default() };
                Ok(())
            }
            Body::Ordered { .. } => {
                model.orders += 1;
                Ok(())
            }
            // Nothing is to come, and what starts it then is an order.
            Body::Stopped { .. } => {
                model.not_before = None;
                Ok(())
            }
            Body::Paused { .. } => {
                model.paused = true;
                Ok(())
            }
            Body::Resumed { .. } => {
                let Model { newest, ready_since, healthy, orders, switched, ended, .. } = *model;
                *model = Model { newest, ready_since, healthy, orders, switched, ended, ..Model::default() };
                Ok(())
            }
            Body::CountersForgotten => {
                let quiet_since = model.last_failure.unwrap_or(0).max(model.ready_since.unwrap_or(u64::MAX));
                let earned = model.healthy && now_us >= quiet_since.saturating_add(restart.healthy_after.as_us());
                // A supervisor that takes over forgets once more what is forgotten already.
                let switched = model.forgets == Some(record.id);
                let allowed = earned || switched || model.orders > 0 || model.last_failure.is_none();
                let orders = if earned || switched { model.orders } else { model.orders.saturating_sub(1) };
                let newest = model.newest;
                *model = Model {
                    newest,
                    ready_since: model.ready_since,
                    healthy: model.healthy,
                    paused: model.paused,
                    orders,
                    switched: model.switched,
                    ended: model.ended,
                    ..Model::default()
                };
                if allowed { Ok(()) } else { Err(format!("{name}: counters forgotten without order or healthy time")) }
            }
            _ => Ok(()),
        }
    }
}

impl Model {
    /// The delay that the documentation promises, before jitter, and whether it is to be held.
    fn expected(&self, restart: &RestartPolicy, now_us: u64) -> (Span, bool) {
        let doubled = |first: Span, times: u32, max: Span| {
            (0..times.min(64)).fold(first, |delay, _| delay.times(2).min(max)).min(max)
        };
        let most = HELD_DELAY_MAX.max(restart.held_delay);
        if let Some(tries) = self.held {
            return (doubled(restart.held_delay, tries, most), true);
        }
        if let Some(rule) = restart.crash_loop {
            let recent = self.recent.iter().filter(|&&at| now_us - at <= rule.within.as_us()).count();
            if recent >= rule.failures as usize {
                return (doubled(restart.held_delay, 0, most), true);
            }
        }
        match self.failures {
            0 | 1 => (restart.first_delay, false),
            failures => (doubled(restart.delay, failures - 2, restart.max_delay), false),
        }
    }

    /// Compares a delay with what was expected: jitter adds a quarter at most, and nothing to the first.
    fn takes(&mut self, name: &Name, now_us: u64, expected: Span, delay: Span, held: bool) -> Result<(), String> {
        let first = !held && self.failures <= 1;
        let most = if first { expected.as_us() } else { expected.as_us() / 4 * 5 + 4 };
        if held && self.held.is_none() {
            self.held = Some(0);
        }
        self.not_before = Some(now_us.saturating_add(delay.as_us()));
        if (expected.as_us()..=most).contains(&delay.as_us()) {
            return Ok(());
        }
        Err(format!(
            "{name}: a delay of {delay} after {} failures (held: {:?}), where {expected} was promised",
            self.failures, self.held
        ))
    }
}

impl Oracle for Delays {
    fn name(&self) -> &'static str {
        "delays"
    }

    fn guarantee(&self) -> &'static str {
        "delays are those of the policy, grow, are forgotten after healthy_after, and no start comes before its delay"
    }

    fn rewind(&mut self, kept: &[Record]) {
        *self = super::replay(Self::new(&self.policy), kept);
    }

    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Record(record) => self.record(now_us, record),
            Seen::Policy(policy) => {
                for (name, service) in &policy.services {
                    if self.policy.services.get(name) != Some(service)
                        && let Some(model) = self.models.get_mut(name)
                    {
                        // What is started anew because of it begins afresh.
                        model.orders += 1;
                    }
                }
                super::merge(&mut self.policy, policy);
                Ok(())
            }
            Seen::Event(_) | Seen::Effect(_) | Seen::Fact(_) => Ok(()),
        }
    }
}

/// A held service is tried again for ever, and told about once.
pub struct Held {
    stands: BTreeMap<Name, HeldStand>,
}

#[derive(Debug, Clone, Default)]
struct HeldStand {
    paused: bool,
    /// It was told that it is held, and nothing has changed that since.
    told: bool,
    /// When the next try is due, while it is held.
    until: Option<u64>,
    tries: u32,
}

impl Held {
    /// For these services.
    #[must_use]
    pub fn new(policy: &Policy) -> Self {
        Self { stands: policy.services.keys().map(|name| (name.clone(), HeldStand::default())).collect() }
    }
}

impl Oracle for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn guarantee(&self) -> &'static str {
        "a held service is tried again for ever, each try is counted, and only the first time is news"
    }

    fn rewind(&mut self, kept: &[Record]) {
        let stands = self.stands.keys().map(|name| (name.clone(), HeldStand::default())).collect();
        *self = super::replay(Self { stands }, kept);
    }

    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        let Seen::Record(record) = seen else { return Ok(()) };
        let Some(stand) = record.service.as_ref().and_then(|name| self.stands.get_mut(name)) else { return Ok(()) };
        let name = record.service.as_ref().map_or("", |name| name.as_str());
        match &record.body {
            Body::Held { until, tries } => {
                let news = *tries == 0;
                let right = if stand.told { !news && *tries > stand.tries } else { news };
                // A hold that was decided on before is over when the tree was slower to go.
                let until = Some(until.as_us().max(now_us)).filter(|_| !stand.paused);
                *stand = HeldStand { told: true, until, tries: *tries, paused: stand.paused };
                if right { Ok(()) } else { Err(format!("{name} is held, try {tries}: news twice, or not counted")) }
            }
            Body::CountersForgotten | Body::Unblocked { .. } => {
                *stand = HeldStand { paused: stand.paused, ..HeldStand::default() };
                Ok(())
            }
            Body::Paused { .. } => {
                (stand.paused, stand.until) = (true, None);
                Ok(())
            }
            Body::Resumed { .. } | Body::Forgotten => {
                *stand = HeldStand::default();
                Ok(())
            }
            Body::SpawnIntended { .. } | Body::Blocked { .. } | Body::BackingOff { .. } | Body::Stopped { .. } => {
                stand.until = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, ending: &super::Ending) -> Result<(), String> {
        let late = |(_, stand): &(&Name, &HeldStand)| {
            stand.until.is_some_and(|until| until.saturating_add(LATE_US) < ending.at_us)
        };
        match self.stands.iter().find(late) {
            Some((name, _)) => Err(format!("{name} is held, and its next try is long due")),
            None => Ok(()),
        }
    }
}
