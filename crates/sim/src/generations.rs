//! Services with generations: which have some, what each generation is worth, and what is done to them.

use crate::death::Restart;
use crate::fate::Flaw;
use crate::fault::{Fault, Rates};
use crate::rng::{Purpose, Rng};
use crate::store::{Comes, Work};
use hale_core::ids::{GenerationId, Name};
use hale_core::policy::{GenerationsPolicy, Policy, Rollback, ServicePolicy, StoreKind};
use hale_core::record::{Actor, OperatorOrder};
use hale_core::safeswitch::{Data, Part, Parts};
use hale_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many generations a service has in all that are drawn: few, so that the same is deployed again.
const NUMBERS: u64 = 6;

/// What is done at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// An operator orders this.
    Order(Fault, OperatorOrder),
    /// Somebody else switches a store to this, or edits files so that they are so.
    Outside(Name, Part, GenerationId),
    /// All of Hale dies.
    Dies(Restart),
}

/// Decides what is wrong with a generation instead of the dice.
pub type Flaws = Arc<dyn Fn(&Name, &GenerationId, u64) -> Option<Flaw> + Send + Sync>;

/// Decides what becomes of a store's work instead of the dice, by when it is told.
pub type Works = Arc<dyn Fn(&Work, u64) -> Comes + Send + Sync>;

/// All that is drawn of generations before a run.
#[derive(Clone, Default)]
pub struct Generations {
    /// What each store is switched to at the beginning; those without generations are not here.
    pub first: BTreeMap<Name, Option<GenerationId>>,
    /// How the files are at the beginning, of those that have some.
    pub files: BTreeMap<Name, GenerationId>,
    /// What is wrong with each generation that has something wrong.
    pub flawed: BTreeMap<(Name, GenerationId), Flaw>,
    /// What each generation says of its service's data, where it says something.
    pub data: BTreeMap<(Name, GenerationId), Data>,
    /// From when to when no generation of a service works, in microseconds from the beginning, and what is wrong then.
    pub environment: BTreeMap<Name, Vec<(u64, u64, Flaw)>>,
    /// What is done, in microseconds from the beginning.
    pub doings: Vec<(u64, Doing)>,
    /// Flaws that are not drawn.
    pub script: Option<Flaws>,
    /// Failures of stores that are not drawn.
    pub works: Option<Works>,
}

impl Generations {
    /// What is wrong with a process of these generations that is made `at_us` after the beginning.
    #[must_use]
    pub fn flaw(&self, service: &Name, runs: &Parts<Option<GenerationId>>, at_us: u64) -> Option<Flaw> {
        let release = runs.store.as_ref()?;
        if let Some(script) = &self.script {
            return script(service, release, at_us);
        }
        let own = runs.each().into_iter().flatten().find_map(|generation| self.own_flaw(service, generation));
        own.or_else(|| self.shared_flaw(service, at_us))
    }

    /// What is wrong with a generation itself.
    #[must_use]
    pub fn own_flaw(&self, service: &Name, generation: &GenerationId) -> Option<Flaw> {
        match &self.script {
            Some(script) => script(service, generation, u64::MAX),
            None => self.flawed.get(&(service.clone(), generation.clone())).copied(),
        }
    }

    /// What is wrong with all of them then.
    fn shared_flaw(&self, service: &Name, at_us: u64) -> Option<Flaw> {
        let windows = self.environment.get(service)?;
        windows.iter().find(|(from, to, _)| (*from..*to).contains(&at_us)).map(|(_, _, flaw)| *flaw)
    }

    /// Whether `at_us` is within a time in which no generation of a service works.
    #[must_use]
    pub fn is_elsewhere(&self, service: &Name, at_us: u64) -> bool {
        self.script.is_none() && self.shared_flaw(service, at_us).is_some()
    }
}

/// The generation of this number.
#[must_use]
pub fn id(number: u64) -> GenerationId {
    GenerationId::try_from(format!("g{number}")).expect("a letter and digits are a name")
}

/// The state of files of this number.
#[must_use]
pub fn files(number: u64) -> GenerationId {
    GenerationId::try_from(format!("f{number}")).expect("a letter and digits are a name")
}

/// The state of files of which some were put back.
#[must_use]
pub fn half() -> GenerationId {
    files(NUMBERS)
}

/// Gives some services generations, with generators of their own: what else a seed means is older than that.
pub fn draw_policies(seed: u64, policy: &mut Policy, slow: bool, crowd: bool) {
    let mut rng = Rng::new(seed, Purpose::Generations, u64::MAX, 0);
    if crowd || !rng.chance(400) {
        return;
    }
    let few = rng.pick(&[300, 900]);
    for (name, service) in &mut policy.services {
        let mut rng = Rng::new(seed, Purpose::Generations, index(name), 0);
        if rng.chance(few) {
            let mut drawn = draw_policy(&mut rng, slow);
            if Rng::new(seed, Purpose::Files, index(name), 0).chance(400) {
                drawn.files.push(format!("/etc/{name}.conf"));
            }
            let service = Arc::make_mut(service);
            service.generations = Some(drawn);
            // What cannot work is started for as long as the run lasts.
            service.restart.delay = service.restart.delay.max(Span::from_ms(20));
            service.restart.max_delay = service.restart.max_delay.max(service.restart.delay.times(32));
        }
    }
}

fn draw_policy(rng: &mut Rng, slow: bool) -> GenerationsPolicy {
    let pace = if slow { 100 } else { 1 };
    let probation = Span::from_ms(rng.scaled(10, 2_000) * pace);
    GenerationsPolicy {
        store: StoreKind::Release,
        probation,
        soak: probation.times(rng.pick(&[1, 2, 8])),
        keep: u32::try_from(rng.within(1, 5)).unwrap_or(1),
        recent: Span::from_ms(rng.scaled(500, 100_000) * pace),
        rollbacks_per_day: u32::try_from(rng.within(1, 3)).unwrap_or(1),
        rollback: rng.pick(&[Rollback::Auto, Rollback::Auto, Rollback::Auto, Rollback::Ask, Rollback::Never]),
        files: Vec::new(),
    }
}

/// Draws what generations are worth and what is done to them. Nothing is drawn where no service has any.
#[must_use]
pub fn draw(
    seed: u64,
    rates: &mut Rates,
    kept: Option<&[Fault]>,
    policy: &Policy,
    faults_us: u64,
    slow: bool,
) -> Generations {
    let with: Vec<(&Name, &ServicePolicy)> =
        policy.services.iter().filter(|(_, service)| service.generations.is_some()).map(|(n, s)| (n, &**s)).collect();
    if with.is_empty() {
        return Generations::default();
    }
    let mut rng = Rng::new(seed, Purpose::Generations, u64::MAX, 1);
    for fault in Fault::OF_GENERATIONS {
        let rate = if rng.chance(400) { 0 } else { rng.pick(&[10, 50, 200, 500, 900]) };
        let is_kept = kept.is_none_or(|kept| kept.contains(&fault));
        rates.set(fault, if is_kept { rate } else { 0 });
    }
    let mut of_files = Rng::new(seed, Purpose::Files, u64::MAX, 0);
    if !of_files.chance(300) && kept.is_none_or(|kept| kept.contains(&Fault::FilesEdited)) {
        rates.set(Fault::FilesEdited, of_files.pick(&[50, 200, 500, 900]));
    }
    // Of these one run has few.
    for fault in [Fault::HaleDies, Fault::PowerCut] {
        if rng.chance(500) {
            rates.leave_out(fault);
        }
    }
    if rates.of(Fault::JournalFull) > 0 {
        // What is in neither of both nobody can know.
        rates.leave_out(Fault::DurableRefused);
    }
    if rates.of(Fault::Reload) > 0 {
        // A new Hale reads the configuration anew; which one that is, is another story.
        rates.leave_out(Fault::HaleDies);
        rates.leave_out(Fault::PowerCut);
    }
    let mut drawn = Generations::default();
    for (name, service) in with {
        draw_worth(seed, rates, name, slow, faults_us, &mut drawn);
        draw_doings(seed, rates, name, service, faults_us, &mut drawn);
        if service.generations.as_ref().is_some_and(|policy| policy.has(Part::Files)) {
            draw_files(seed, rates, name, slow, faults_us, &mut drawn);
        }
    }
    let mut rng = Rng::new(seed, Purpose::Generations, u64::MAX, 2);
    for (fault, restart) in [(Fault::HaleDies, Restart::SameBoot), (Fault::PowerCut, Restart::NewBoot)] {
        let mut rng = Rng::new(rng.bits(), Purpose::Generations, u64::MAX, 3);
        for _ in 0..rates.of(fault).div_ceil(250) {
            drawn.doings.push((rng.scaled(1, faults_us), Doing::Dies(restart)));
        }
    }
    drawn
}

/// What a service's generations are worth, and when none of them works.
fn draw_worth(seed: u64, rates: &Rates, name: &Name, slow: bool, faults_us: u64, drawn: &mut Generations) {
    let mut rng = Rng::new(seed, Purpose::Generations, index(name), 1);
    let pace = if slow { 100 } else { 1 };
    let first = (!rng.chance(150)).then(|| id(0));
    drawn.first.insert(name.clone(), first);
    for number in 0..NUMBERS {
        let mut rng = Rng::new(seed, Purpose::Generations, index(name), 16 + number);
        // What was there first has mostly been good.
        let rate = rates.of(Fault::BadGeneration) / if number == 0 { 8 } else { 1 };
        if rng.chance(rate) {
            let flaw = draw_flaw(&mut rng, pace);
            drawn.flawed.insert((name.clone(), id(number)), flaw);
        }
    }
    // Many or none: what one leaves shows only with the next one.
    let moves = if rates.of(Fault::DataMoves) > 0 { 600 } else { 0 };
    for number in 0..NUMBERS {
        let mut rng = Rng::new(seed, Purpose::Generations, index(name), 64 + number);
        if rng.chance(moves) {
            drawn.data.insert((name.clone(), id(number)), draw_data(&mut rng));
        }
    }
    let mut rng = Rng::new(seed, Purpose::Generations, index(name), 2);
    if rng.chance(rates.of(Fault::Environment)) {
        let from = rng.scaled(1, faults_us);
        let to = (from + rng.scaled(100_000, faults_us.max(100_001))).min(faults_us);
        let flaw = draw_flaw(&mut rng, pace);
        drawn.environment.insert(name.clone(), vec![(from, to, flaw)]);
    }
}

/// What the states of a service's files are worth, and when somebody edits them.
fn draw_files(seed: u64, rates: &Rates, name: &Name, slow: bool, faults_us: u64, drawn: &mut Generations) {
    let pace = if slow { 100 } else { 1 };
    drawn.files.insert(name.clone(), files(0));
    for number in 1..NUMBERS {
        let mut rng = Rng::new(seed, Purpose::Files, index(name), 16 + number);
        if rng.chance(rates.of(Fault::BadGeneration)) {
            drawn.flawed.insert((name.clone(), files(number)), draw_flaw(&mut rng, pace));
        }
    }
    let mut rng = Rng::new(seed, Purpose::Files, index(name), 1);
    let rate = rates.of(Fault::FilesEdited);
    let count = if rate == 0 { 0 } else { 1 + rng.below(u64::from(rate) / 100 + 1) };
    for _ in 0..count {
        let at = rng.scaled(1, faults_us);
        // Whoever edits saves more than once.
        let again = rng.chance(300).then(|| at + rng.scaled(1, 1_000_000));
        for at in [Some(at), again].into_iter().flatten() {
            let to = files(rng.below(NUMBERS));
            drawn.doings.push((at, Doing::Outside(name.clone(), Part::Files, to)));
        }
    }
}

fn draw_data(rng: &mut Rng) -> Data {
    let format = u32::try_from(rng.within(1, 3)).unwrap_or(1);
    let min_rollback = u32::try_from(rng.within(0, u64::from(format))).unwrap_or(0);
    let undoes = rng.chance(500);
    let snapshot = rng.chance(700).then(|| String::from("tank/data@7"));
    Data { format, min_rollback, undoes, snapshot }
}

fn draw_flaw(rng: &mut Rng, pace: u64) -> Flaw {
    match rng.below(6) {
        0..=1 => Flaw::Ends(rng.scaled(1, 10_000)),
        2 => Flaw::Ends(rng.scaled(10_000, 5_000_000) * pace),
        3 => Flaw::Wrong(rng.pick(&[0, 1]) * rng.scaled(1_000, 2_000_000) * pace),
        4 => Flaw::Hangs(rng.pick(&[0, 1]) * rng.scaled(1_000, 2_000_000) * pace),
        _ => Flaw::NeverUp,
    }
}

/// What is done to a service's generations.
fn draw_doings(
    seed: u64,
    rates: &Rates,
    name: &Name,
    service: &ServicePolicy,
    faults_us: u64,
    drawn: &mut Generations,
) {
    for (number, fault) in
        [Fault::Deploy, Fault::OrderRollback, Fault::OrderClear, Fault::OutsideSwitch].into_iter().enumerate()
    {
        let mut rng = Rng::new(seed, Purpose::Generations, index(name), 3 + number as u64);
        let rate = rates.of(fault);
        let count = if rate == 0 { 0 } else { 1 + rng.below(u64::from(rate) / 100 + 1) };
        for _ in 0..count {
            let at = rng.scaled(1, faults_us);
            let generation = id(rng.below(NUMBERS));
            let service_name = name.clone();
            let force = rng.chance(200);
            let to = rng.chance(300).then(|| generation.clone());
            let doing = match fault {
                Fault::OrderRollback => Doing::Order(fault, OperatorOrder::Rollback { service: service_name, to }),
                Fault::OrderClear => {
                    Doing::Order(fault, OperatorOrder::ClearQuarantine { service: service_name, generation })
                }
                Fault::OutsideSwitch => Doing::Outside(service_name, Part::Store, generation),
                _ => Doing::Order(fault, OperatorOrder::Deploy { service: service_name, generation, force }),
            };
            // Impatient, or two at once.
            let again = rng.chance(300).then(|| at + rng.scaled(1, probation_us(service)));
            drawn.doings.extend(again.map(|at| (at, doing.clone())));
            drawn.doings.push((at, doing));
        }
    }
}

fn probation_us(service: &ServicePolicy) -> u64 {
    service.generations.as_ref().map_or(1, |policy| policy.probation.as_us())
}

fn index(name: &Name) -> u64 {
    name.as_str().trim_start_matches('s').parse().unwrap_or(u64::MAX)
}

/// Who deploys.
#[must_use]
pub fn actor() -> Actor {
    Actor { uid: 1_000, pid: 4_712, user: Some(String::from("berta")) }
}
