//! The hardware timer: what it says of the boot, whether the guardian may let it reset the machine, and the reboot of
//! a machine on which nothing that is required works.

use super::{Brain, DURABLE_WITHIN};
use crate::effect::{Fence, Order};
use crate::hardware::{CARD_RESET, Past, Timer};
use crate::ids::{Name, RecordId};
use crate::incident::Outcome;
use crate::plan::ladder::RebootRung;
use crate::plan::reboot::{self, Asked, Choice, Decision, Read, Verdict};
use crate::policy::Reboot;
use crate::reason::Reason;
use crate::record::{Body, CORE_VERSION};
use crate::world::hardware::Key;
use crate::world::phase::{Phase, StopStage, Then};
use alloc::boxed::Box;
use alloc::string::String;

impl Brain<'_> {
    /// The guardian tells of the timer, and which keys it has: a new supervisor learns so what an earlier one gave.
    pub(super) fn timer_told(&mut self, timer: Timer, may_reboot: bool, reboot: bool) {
        if self.world.hardware.timer.as_ref() != Some(&timer) {
            self.record_in(None, None, Body::HardwareTimer { timer });
        }
        let hardware = &mut self.world.hardware;
        if reboot {
            hardware.reboot = Key::Given;
        }
        if may_reboot {
            hardware.permission = Key::Given;
            if self.world.birth.policy.system.reboot == Reboot::Never {
                // It was taken back, and the guardian was not told any more.
                self.withdraw_permission();
            }
        }
        self.look_at_hardware();
    }

    /// By another policy the question is another: what was allowed is not, until that is decided again.
    pub(super) fn withdraw_permission(&mut self) {
        let hardware = &mut self.world.hardware;
        (hardware.answer, hardware.recheck) = (None, None);
        if let Key::OnRecord { .. } = hardware.reboot {
            hardware.reboot = Key::Kept;
        }
        if core::mem::take(&mut hardware.permission) == Key::Given {
            self.push_effect(Fence::Host, Order::MayReboot { allowed: false });
        }
    }

    /// What ledger and kernel say of earlier boots.
    pub(super) fn past_told(&mut self, past: Past) {
        self.world.hardware.past = Some(past);
        self.look_at_hardware();
    }

    /// Whatever follows from what is known of the timer now.
    pub(super) fn look_at_hardware(&mut self) {
        if self.world.hardware.past.is_none() || self.world.ending.is_some() {
            return;
        }
        self.judge_boot();
        self.judge_permission();
    }

    /// Opens the incident of a boot that the timer caused: once for each boot.
    fn judge_boot(&mut self) {
        let hardware = &self.world.hardware;
        let by_timer = match &hardware.timer {
            Some(Timer::Armed(timer)) => Some(timer.boot_status),
            Some(Timer::Waiting { .. } | Timer::Refused { .. }) | None => None,
        };
        let Some(past) = &hardware.past else { return };
        let Some(boot_status) = past.boot_status.or(by_timer).filter(|_| !hardware.boot_judged) else { return };
        let boot_id = self.world.birth.boot_id.clone();
        let resets = past.resets.as_deref().unwrap_or_default();
        let told = resets.iter().any(|reset| !reset.ordered && reset.boot_id == boot_id);
        let (previous, ordered) = (past.previous.clone(), reboot::fulfilled(resets, &boot_id));
        self.world.hardware.boot_judged = true;
        if told || boot_status & CARD_RESET == 0 {
            return;
        }
        let down = previous.as_ref().map(|previous| self.at.wall_us.saturating_sub(previous.last_at.wall_us));
        let down_us = down.and_then(|us| u64::try_from(us).ok());
        let incident = crate::ids::IncidentId(self.next_record().0);
        self.record_in(None, None, Body::HardwareReset { boot_id, boot_status, ordered, previous });
        let closed = Body::IncidentClosed { outcome: Outcome::Rebooted, recovery_us: None, down_us, checks: 0 };
        self.record_in(None, Some(incident), closed);
    }

    /// Gives the guardian the permission as soon as all is well, and records why not whenever that changes.
    fn judge_permission(&mut self) {
        if self.world.hardware.timer.is_none() || self.world.hardware.permission != Key::Kept {
            return;
        }
        let decision = self.decide_reboot(Asked::Permission);
        let past = self.world.hardware.past.as_ref();
        let resets = past.and_then(|past| past.resets.as_deref()).unwrap_or_default();
        let frees = reboot::count(resets, self.at, &self.world.birth.boot_id).1;
        let spent = matches!(decision.choice.reason, Reason::RebootsSpent { .. });
        self.world.hardware.recheck = frees.filter(|_| spent).map(|left| self.now().after(left));
        if self.world.hardware.answer.as_ref() != Some(&decision.choice) {
            self.world.hardware.answer = Some(decision.choice.clone());
            self.record_in(None, None, Body::RebootDecided(Box::new(decision)));
        }
    }

    fn decide_reboot(&self, asked: Asked) -> Decision {
        let (birth, hardware) = (&self.world.birth, &self.world.hardware);
        let resets = hardware.past.as_ref().and_then(|past| past.resets.as_deref());
        let read = Read {
            asked,
            mode: self.world.mode(),
            reboot: birth.policy.system.reboot,
            per_day: birth.policy.system.reboots_per_day,
            armed: matches!(hardware.timer, Some(Timer::Armed(_))),
            ledger: self.world.ledger_error.is_none(),
            resets: resets.map(|resets| reboot::count(resets, self.at, &birth.boot_id).0),
        };
        self.reboot_decision(read)
    }

    fn reboot_decision(&self, read: Read) -> Decision {
        Decision {
            rule: String::from(reboot::RULE),
            core: CORE_VERSION,
            policy: self.world.birth.hash.clone(),
            choice: reboot::decide(&read),
            read,
        }
    }

    /// What becomes of the reboot rung if this service is held now; `None`: it is not required.
    pub(super) fn reboot_rung(&self, name: &Name) -> Option<Decision> {
        let timer = self.world.birth.policy.host.hardware_watchdog.as_ref()?;
        if !timer.require.contains(name) {
            return None;
        }
        let works = |other: &&Name| *other != name && !self.is_beyond_ladder(other);
        let working = timer.require.iter().find(works).cloned();
        let permitted = self.world.hardware.permission == Key::Given;
        Some(self.decide_reboot(Asked::Failed { service: name.clone(), working, permitted }))
    }

    /// A required service is beyond its ladder: the reboot or its refusal goes on record.
    pub(super) fn take_reboot_rung(&mut self, decision: Option<Decision>) {
        let idle = self.world.hardware.reboot == Key::Kept && self.world.ending.is_none();
        if let Some(decision) = decision.filter(|_| idle) {
            self.record_in(None, None, Body::RebootDecided(Box::new(decision)));
        }
    }

    /// Whether nothing but a reboot is left for it.
    fn is_beyond_ladder(&self, name: &Name) -> bool {
        // On a paused one somebody works: Hale has not given up on it.
        let healed = self.world.services.get(name).filter(|service| service.known.paused.is_none());
        healed.is_some_and(|service| match &service.known.phase {
            Phase::Held { .. }
            | Phase::Stopping { then: Then::Hold { .. }, .. }
            | Phase::Stopping { stage: StopStage::Unkillable { .. }, .. } => true,
            Phase::Stopped { .. }
            | Phase::Down
            | Phase::Blocked { .. }
            | Phase::BackingOff { .. }
            | Phase::Spawning { .. }
            | Phase::Starting { .. }
            | Phase::Running { .. }
            | Phase::Stopping { .. }
            | Phase::Remains { .. } => false,
        })
    }

    /// Hands over the keys whose records are durable now.
    pub(super) fn hardware_durable(&mut self, up_to: RecordId) {
        if let Key::OnRecord { record, .. } = self.world.hardware.permission
            && record <= up_to
        {
            self.world.hardware.permission = Key::Given;
            self.push_effect(Fence::Host, Order::MayReboot { allowed: true });
        }
        if let Key::OnRecord { record, .. } = self.world.hardware.reboot
            && record <= up_to
        {
            self.world.hardware.reboot = Key::Given;
            self.push_effect(Fence::Host, Order::Reboot);
        }
    }

    /// A key whose record the ledger refused is not handed over: a reboot waits for its next decision, the permission is
    /// asked for again later.
    pub(super) fn hardware_not_durable(&mut self, refused: RecordId) {
        let now = self.now();
        if let Key::OnRecord { record, since } = self.world.hardware.reboot
            && record == refused
        {
            self.record_in(None, None, Body::RebootNotDurable { decided: record, waited: now.since(since) });
        }
        if let Key::OnRecord { record, .. } = self.world.hardware.permission
            && record == refused
        {
            self.world.hardware.permission = Key::Kept;
            self.world.hardware.answer = None;
            self.world.hardware.recheck = Some(now.after(DURABLE_WITHIN));
        }
    }

    /// What is due without an event: a reboot whose record the disk does not take, a budget that is free again.
    pub(super) fn hardware_due(&mut self) {
        let now = self.now();
        if let Key::OnRecord { record, since } = self.world.hardware.reboot
            && since.after(DURABLE_WITHIN) <= now
        {
            self.record_in(None, None, Body::RebootNotDurable { decided: record, waited: now.since(since) });
        }
        if self.world.hardware.recheck.is_some_and(|at| at <= now) {
            self.world.hardware.recheck = None;
            self.look_at_hardware();
        }
    }
}

/// How the ladder sees the rung.
pub(super) fn rung(decision: Option<&Decision>) -> RebootRung {
    match decision.map(|decision| &decision.choice) {
        None => RebootRung::NotRequired,
        Some(Choice { verdict: Verdict::Refuse, reason }) => RebootRung::Refused { reason: reason.clone() },
        Some(Choice { verdict: Verdict::Permit | Verdict::Reboot, .. }) => RebootRung::Taken,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Output, step, tests as steps};
    use super::*;
    use crate::event::Event;
    use crate::hardware::{ArmedTimer, PastReset, PreviousBoot};
    use crate::incident;
    use crate::policy::{CrashLoop, HardwareWatchdog, Reboot, ServicePolicy, SystemPolicy};
    use crate::record::Record;
    use crate::time::{Now, Span};
    use crate::world::World;
    use alloc::vec;
    use alloc::vec::Vec;

    /// One required service, held after its first failure.
    fn world() -> (World, Name) {
        let mut service: ServicePolicy = steps::service();
        service.restart.crash_loop = Some(CrashLoop { failures: 1, within: Span::from_secs(60) });
        let (world, name) = steps::world(service);
        let mut birth = world.birth;
        birth.policy.host.hardware_watchdog = Some(HardwareWatchdog {
            device: String::from("/dev/watchdog"),
            timeout: Span::from_secs(30),
            require: vec![name.clone()],
        });
        birth.policy.system = SystemPolicy { reboot: Reboot::Auto, reboots_per_day: 1 };
        (World::new(birth), name)
    }

    fn armed(boot_status: u32) -> Event {
        let timer = Timer::Armed(ArmedTimer {
            identity: String::from("i6300ESB timer"),
            timeout: Span::from_secs(30),
            pretimeout: Span::ZERO,
            status: 0,
            boot_status,
            outlives_guardian: true,
            nowayout: false,
        });
        Event::HardwareTimer { timer, may_reboot: false, reboot: false }
    }

    fn past(resets: Vec<PastReset>) -> Event {
        Event::Past(Past { boot_status: None, resets: Some(resets), previous: None })
    }

    /// Before this boot, and within the day.
    fn earlier(ordered: bool) -> PastReset {
        PastReset { record: RecordId(0), at: Now::default(), boot_id: String::from("earlier"), ordered }
    }

    fn at(secs: u64) -> Now {
        Now { wall_us: (secs * 1_000_000).cast_signed(), ..steps::at(secs * 1_000) }
    }

    fn decisions(output: &Output) -> Vec<Choice> {
        let choice = |record: &Record| {
            if let Body::RebootDecided(decision) = &record.body { Some(decision.choice.clone()) } else { None }
        };
        output.records.iter().filter_map(choice).collect()
    }

    fn orders(output: &Output) -> Vec<&Order> {
        let host = |order: &&Order| matches!(order, Order::MayReboot { .. } | Order::Reboot);
        output.effects.iter().map(|effect| &effect.order).filter(host).collect()
    }

    fn durable(world: &mut World, now: Now) -> Output {
        let up_to = RecordId(world.next_record.0 - 1);
        step(world, now, Event::Durable { up_to })
    }

    /// A running service, and a guardian with the permission.
    fn permitted() -> (World, Name) {
        let (mut world, name) = world();
        steps::run(&mut world, &name);
        let _ = step(&mut world, at(1), armed(0));
        let asked = step(&mut world, at(1), past(Vec::new()));
        assert_eq!(decisions(&asked)[0].verdict, Verdict::Permit);
        assert_eq!(orders(&asked), [&Order::Reboot; 0], "nothing before its record is durable");
        assert_eq!(orders(&durable(&mut world, at(1))), [&Order::MayReboot { allowed: true }]);
        (world, name)
    }

    #[test]
    fn the_machine_is_reset_after_a_durable_record_when_all_that_is_required_failed() {
        let (mut world, name) = permitted();
        let held = step(&mut world, at(2), steps::exited(&name, 1));
        assert_eq!(decisions(&held)[0], Choice { verdict: Verdict::Reboot, reason: Reason::RequiredFailed });
        assert_eq!(orders(&held), [&Order::Reboot; 0]);
        assert_eq!(orders(&durable(&mut world, at(2))), [&Order::Reboot]);
        assert_eq!(orders(&durable(&mut world, at(3))), [&Order::Reboot; 0], "once");
    }

    #[test]
    fn without_a_durable_record_it_is_not() {
        let (mut world, name) = permitted();
        let _ = step(&mut world, at(2), steps::exited(&name, 1));
        assert_eq!(world.next_deadline(), Some(at(7).mono));
        let late = step(&mut world, at(7), Event::Tick);
        assert!(matches!(late.records[0].body, Body::RebootNotDurable { .. }), "{:?}", late.records);
        assert_eq!(orders(&durable(&mut world, at(8))), [&Order::Reboot; 0], "too late is never");
    }

    #[test]
    fn a_spent_budget_refuses_until_a_day_has_passed() {
        let (mut world, name) = world();
        steps::run(&mut world, &name);
        let _ = step(&mut world, at(1), armed(0));
        let spent = step(&mut world, at(10), past(vec![earlier(true)]));
        let refused = |output: &Output| decisions(output)[0].reason.clone();
        assert_eq!(refused(&spent), Reason::RebootsSpent { resets: 1, per_day: 1 });
        let held = step(&mut world, at(11), steps::exited(&name, 1));
        assert_eq!(refused(&held), Reason::RebootsSpent { resets: 1, per_day: 1 });
        let ladder = held
            .records
            .iter()
            .find_map(|record| if let Body::Decided(decision) = &record.body { Some(&decision.choice) } else { None });
        assert_eq!(ladder.unwrap().refused[1].reason, Reason::RebootsSpent { resets: 1, per_day: 1 });
        assert!(orders(&durable(&mut world, at(12))).is_empty());
        let free = step(&mut world, at(86_400), Event::Tick);
        assert_eq!(decisions(&free)[0].verdict, Verdict::Permit);
    }

    #[test]
    fn with_reboot_never_the_refusal_is_told_once() {
        let (mut world, _) = world();
        world.birth.policy.system.reboot = Reboot::Never;
        let _ = step(&mut world, at(1), past(Vec::new()));
        assert_eq!(decisions(&step(&mut world, at(1), armed(0)))[0].reason, Reason::RebootNever);
        assert_eq!(decisions(&step(&mut world, at(2), armed(0))), []);
    }

    #[test]
    fn a_boot_by_the_timer_is_one_incident_of_the_host_that_names_what_came_before() {
        let (mut world, _) = world();
        let last = vec![RecordId(0), RecordId(0)];
        let previous = PreviousBoot { boot_id: String::from("earlier"), last: last.clone(), last_at: at(2) };
        let told = Past { boot_status: None, resets: Some(vec![earlier(true)]), previous: Some(previous) };
        let first = step(&mut world, at(10), Event::Past(told));
        assert!(first.records.is_empty(), "what the timer says of the boot is not known yet");
        let output = step(&mut world, at(10), armed(CARD_RESET));
        let story = incident::tell(output.records.iter().filter(|record| record.incident.is_some())).unwrap();
        assert_eq!((story.service, story.outcome), (None, Outcome::Rebooted));
        assert_eq!((story.records_before, story.down_us), (last, Some(8_000_000)));
        assert!(story.timeline[0].why.as_ref().unwrap().contains("Hale had decided it"));
        assert_eq!(decisions(&output)[0].reason, Reason::RebootsSpent { resets: 1, per_day: 1 }, "counted once");
        assert!(step(&mut world, at(11), armed(CARD_RESET)).records.is_empty());
    }

    #[test]
    fn what_the_supervisor_before_recorded_of_this_boot_is_not_recorded_again() {
        let (mut world, _) = world();
        let ours = PastReset { boot_id: world.birth.boot_id.clone(), ..earlier(false) };
        let _ = step(&mut world, at(1), past(vec![ours]));
        let output = step(&mut world, at(2), armed(CARD_RESET));
        assert!(!output.records.iter().any(|record| matches!(record.body, Body::HardwareReset { .. })));
    }
}
