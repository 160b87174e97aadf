//! Policies that come into force while a run goes on: each is the one before with a few things changed.

use crate::fault::{Fault, Rates};
use crate::rng::{Purpose, Rng};
use crate::scenario::{draw_check, needed};
use hale_core::ids::Name;
use hale_core::policy::{CheckKind, CheckPolicy, Policy, PolicyHash, ServicePolicy};
use hale_core::time::Span;
use std::sync::Arc;

/// One reload.
#[derive(Debug, Clone)]
pub struct Reload {
    /// When, in microseconds from the beginning.
    pub at_us: u64,
    /// What is in the file then; `None`: something that cannot be used.
    pub policy: Option<Policy>,
}

/// The hash of the `number`th policy; the one at the beginning is number 0.
#[must_use]
pub fn hash(number: usize) -> PolicyHash {
    PolicyHash(format!("{number:04}").into())
}

/// Draws how often policies change, with a generator of its own: what other faults a seed means is older than this one.
pub fn draw_rate(seed: u64, rates: &mut Rates) {
    let mut rng = Rng::new(seed, Purpose::Reload, 1, 0);
    if rng.chance(400) {
        rates.set(Fault::Reload, 500);
    }
}

/// What `seed` reloads, in order of time.
#[must_use]
pub fn draw(seed: u64, rates: &Rates, faults_us: u64, policy: &Policy, slow: bool) -> Vec<Reload> {
    let mut rng = Rng::new(seed, Purpose::Reload, 0, 0);
    let rate = rates.of(Fault::Reload);
    let count = if rate == 0 { 0 } else { 1 + rng.below(4) };
    let mut times: Vec<u64> = (0..count).map(|_| rng.scaled(1, faults_us)).collect();
    times.sort_unstable();
    let mut newest = policy.clone();
    let mut reload = |at_us| {
        let policy = (!rng.chance(150)).then(|| {
            for _ in 0..=rng.below(3) {
                change(&mut newest, policy, &mut rng, slow);
            }
            newest.clone()
        });
        Reload { at_us, policy }
    };
    times.into_iter().map(&mut reload).collect()
}

/// Changes one thing. `first`: the policy at the beginning, which has all services that ever are.
fn change(policy: &mut Policy, first: &Policy, rng: &mut Rng, slow: bool) {
    let pick = |rng: &mut Rng, policy: &Policy| -> Option<Name> {
        let index = rng.below((policy.services.len() as u64).max(1));
        policy.services.keys().nth(usize::try_from(index).unwrap_or(0)).cloned()
    };
    let Some(name) = pick(rng, first) else { return };
    let Some(service) = policy.services.get_mut(&name) else {
        // It is gone, and comes back as it was at the beginning, behind those that are there.
        let mut service = ServicePolicy::clone(&first.services[&name]);
        service.after.retain(|on| policy.services.contains_key(on) || policy.dependencies.contains_key(on));
        policy.services.insert(name, Arc::new(service));
        return;
    };
    let service = Arc::make_mut(service);
    match rng.below(10) {
        0..=1 => service.command.push(format!("-{}", rng.below(1_000))),
        2 => {
            policy.services.remove(&name);
            for other in policy.services.values_mut() {
                Arc::make_mut(other).after.retain(|on| *on != name);
            }
        }
        3 => service.after.clear(),
        4 => service.stop.grace = Span::from_ms(rng.scaled(1, 5_000)),
        5 => service.restart.delay = Span::from_ms(rng.scaled(1, 1_000)).min(service.restart.max_delay),
        6 => policy.host.restarts_in_flight = rng.pick(&[1, 2, 16]),
        7 => service.checks.push(added(rng, service, slow)),
        // Those of the beginning stay: a process may fail in a way that no other check sees.
        8 => service.checks.truncate(first.services[&name].checks.len()),
        _ => {
            if let Some(check) = service.checks.first_mut() {
                check.failures = rng.pick(&[1, 2, 4]);
                check.every = Span::from_ms(rng.scaled(20, 1_000) * if slow { 100 } else { 1 });
            }
        }
    }
    if let Some(service) = policy.services.get_mut(&name).map(Arc::make_mut) {
        service.start.within = service.start.within.max(needed(&service.checks));
    }
}

/// A check that a process can pass that was never told of it.
fn added(rng: &mut Rng, service: &ServicePolicy, slow: bool) -> CheckPolicy {
    let number = 100 + rng.below(1_000_000);
    let mut check = draw_check(rng, number, slow);
    if check.kind.hears() {
        check.kind = CheckKind::Tcp { address: String::from("127.0.0.1:1") };
    }
    debug_assert!(service.checks.iter().all(|other| other.name != check.name), "a number of its own");
    check
}
