//! Guarantees: each is one sentence that must be true of every run, judged from what happened in the fake world.

mod alike;
mod blames;
mod blocking;
mod delays;
mod descriptors;
mod generations;
mod intentions;
mod leaks;
mod liveness;
mod looks;
mod oom;
mod pauses;
mod processes;
mod records;
mod reloads;
mod stalls;
mod starved;

use crate::kernel::Fact;
use crate::scenario::Scenario;
use hale_core::effect::Effect;
use hale_core::event::Event;
use hale_core::policy::Policy;
use hale_core::record::Record;
use std::fmt;

/// How many violations of one run are kept: the first says what is wrong, the others are its echo.
const VIOLATIONS_MAX: usize = 64;

/// One thing that an oracle can see.
#[derive(Debug, Clone, Copy)]
pub enum Seen<'a> {
    /// The core is told this.
    Event(&'a Event),
    /// The core wrote this.
    Record(&'a Record),
    /// The core ordered this.
    Effect(&'a Effect),
    /// This happened in the kernel.
    Fact(&'a Fact),
    /// This policy is in force from here on.
    Policy(&'a Policy),
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// Services that should be healthy by now and are not, in words.
    pub unsettled: Vec<String>,
    /// Hale was told to end, and has not said that it is done.
    pub end_awaited: bool,
    /// The loop was woken again and again with nothing to do.
    pub spins: bool,
    /// The run came to its end because nothing was left to happen: all is healthy, stopped, or held back for good.
    pub at_rest: bool,
    /// More events than any run needs.
    pub endless: bool,
    /// Microseconds on the monotonic clock.
    pub at_us: u64,
}

/// Something that must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which oracle says so.
    pub oracle: &'static str,
    /// When, in microseconds on the monotonic clock.
    pub at_us: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, us) = (self.at_us / 1_000_000, self.at_us % 1_000_000);
        write!(f, "[{}] at {secs}.{us:06}: {}", self.oracle, self.what)
    }
}

/// Judges one guarantee.
pub trait Oracle {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What must be true, in one sentence.
    fn guarantee(&self) -> &'static str;

    /// Looks at one thing; `Err`: the guarantee is broken, and how. `now_us`: the true time.
    fn see(&mut self, now_us: u64, seen: Seen<'_>) -> Result<(), String>;

    /// The next supervisor knows of these records only: the journal could not be written after them. For those that
    /// judge by what was said, and not by what was done.
    fn rewind(&mut self, _kept: &[Record]) {}

    /// All of Hale is gone, and what this ledger has is all that is left for the next one.
    fn restart(&mut self, _ledger: &[Record]) {
        self.rewind(&[]);
    }

    /// Looks at the end of the run.
    fn end(&mut self, _ending: &Ending) -> Result<(), String> {
        Ok(())
    }
}

/// What an oracle knows that has seen these records alone.
fn replay<O: Oracle>(mut oracle: O, kept: &[Record]) -> O {
    for record in kept {
        // It was judged when it was written.
        let _ = oracle.see(record.at.mono.as_us(), Seen::Record(record));
    }
    oracle
}

/// Takes another policy for what it says of services that there are; what is gone may still run by the one before.
fn merge(policy: &mut Policy, other: &Policy) {
    policy.host = other.host.clone();
    policy.services.extend(other.services.iter().map(|(name, service)| (name.clone(), service.clone())));
}

/// All oracles.
pub struct Judges {
    oracles: Vec<Box<dyn Oracle>>,
    /// What they found.
    pub violations: Vec<Violation>,
}

impl Judges {
    /// Oracles for one scenario.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        Self { oracles: oracles(scenario), violations: Vec::new() }
    }

    /// Shows them one thing.
    pub fn see(&mut self, now_us: u64, seen: Seen<'_>) {
        for oracle in &mut self.oracles {
            if let Err(what) = oracle.see(now_us, seen)
                && self.violations.len() < VIOLATIONS_MAX
            {
                self.violations.push(Violation { oracle: oracle.name(), at_us: now_us, what });
            }
        }
    }

    /// Lets them forget what the journal forgot.
    pub fn rewind(&mut self, kept: &[Record]) {
        self.oracles.iter_mut().for_each(|oracle| oracle.rewind(kept));
    }

    /// Lets them begin anew with what the ledger has.
    pub fn restart(&mut self, ledger: &[Record]) {
        self.oracles.iter_mut().for_each(|oracle| oracle.restart(ledger));
    }

    /// Shows them the end.
    pub fn end(&mut self, ending: &Ending) {
        for oracle in &mut self.oracles {
            if let Err(what) = oracle.end(ending) {
                self.violations.push(Violation { oracle: oracle.name(), at_us: ending.at_us, what });
            }
        }
    }
}

/// All oracles, new.
#[must_use]
pub fn oracles(scenario: &Scenario) -> Vec<Box<dyn Oracle>> {
    let policy = &scenario.policy;
    vec![
        Box::new(processes::OneProcess),
        Box::new(processes::Possible),
        Box::new(processes::NoViolation),
        Box::new(delays::Delays::new(policy)),
        Box::new(delays::Held::new(policy)),
        Box::new(intentions::Reasons::new(policy)),
        Box::new(intentions::Incidents::default()),
        Box::new(intentions::InOrder::new(policy)),
        Box::new(blocking::Blocking::new(policy)),
        Box::new(intentions::InFlight::new(policy)),
        Box::new(intentions::Observes::new(policy)),
        Box::new(records::RecordsFirst::default()),
        Box::new(records::Acknowledged::default()),
        Box::new(records::OneProbe::default()),
        Box::new(records::Recomputes),
        Box::new(alike::Alike::default()),
        Box::new(records::Answers::default()),
        Box::new(oom::OomIsNamed::default()),
        Box::new(stalls::StallsAreNamed::default()),
        Box::new(descriptors::LeftIsPassed),
        Box::new(pauses::Pauses::default()),
        Box::new(leaks::OnlyLeaks::new(policy)),
        Box::new(reloads::Reloads::new(policy)),
        Box::new(starved::Starved),
        Box::new(looks::LooksFirst::default()),
        Box::new(blames::Blames),
        Box::new(generations::stores::IntentsFirst::default()),
        Box::new(generations::stores::SpawnsCurrent::default()),
        Box::new(generations::stores::NeverFights::default()),
        Box::new(generations::stores::Retains::default()),
        Box::new(generations::data::Readable),
        Box::new(generations::proofs::ProofsFirst::default()),
        Box::new(generations::proofs::Probation::new(policy)),
        Box::new(generations::proofs::RolledBack::new(policy)),
        Box::new(generations::proofs::FailedBefore::default()),
        Box::new(generations::choices::OneSwitch::default()),
        Box::new(generations::choices::WaysBack::default()),
        Box::new(generations::choices::NeverToBad::default()),
        Box::new(generations::choices::FailedIsBad::default()),
        Box::new(generations::choices::Allowed::new(policy)),
        Box::new(generations::choices::Budget::new(policy)),
        Box::new(generations::choices::TrueRefusals::new(policy)),
        Box::new(generations::choices::Kept::default()),
        Box::new(generations::changes::NewestFirst::new(scenario)),
        Box::new(generations::changes::LeftAlone::default()),
        Box::new(generations::changes::OfItsProcess::default()),
        Box::new(liveness::Liveness),
        Box::new(liveness::NoSpinning),
        Box::new(liveness::Ends::default()),
    ]
}
