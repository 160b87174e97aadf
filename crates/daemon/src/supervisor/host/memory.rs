//! How the host hears of the OOM killer: from the services' `memory.events`, and where there is no memory controller
//! from the kernel's log. And how it hears that a service waits for memory.

use super::{DaemonHost, Source};
use crate::execute::tree::delegate::Controller;
use crate::execute::tree::limits::not_enforced;
use crate::monitor::kernel_log::KernelLog;
use crate::monitor::memory::MemoryWatch;
use crate::monitor::pressure::StallTrigger;
use crate::protocol::Slot;
use hale_core::event::Event;
use hale_core::ids::Name;
use hale_core::memory::{MemoryReport, OomKills};
use hale_core::policy::Policy;
use rustix::event::epoll;

/// Once, and not again before it is asked for again.
const ONCE: epoll::EventFlags = epoll::EventFlags::PRI.union(epoll::EventFlags::ONESHOT);

impl DaemonHost {
    /// Says which limits of the policy cannot be enforced here, and opens the kernel's log where nothing else tells
    /// an OOM kill from any other SIGKILL.
    pub(super) fn prepare_memory(&mut self, policy: &Policy) {
        self.say_not_enforced(policy);
        // Without it incidents have the figures of the end of a process only, and `hale doctor` says why.
        self.stalls = StallTrigger::open(&self.parts.trees).ok().filter(|stalls| {
            epoll::add(&self.epoll, stalls.fd(), Source::Stalls.data(), epoll::EventFlags::PRI).is_ok()
        });
        if !self.parts.trees.lacking().iter().any(|lacking| lacking.controller == Controller::Memory) {
            return;
        }
        // Without it the cause of such a kill is "signal", and `hale doctor` says why.
        self.kernel_log = KernelLog::open()
            .ok()
            .filter(|log| epoll::add(&self.epoll, log, Source::KernelLog.data(), epoll::EventFlags::IN).is_ok());
    }

    /// Says which limits of this policy nobody enforces here.
    pub(super) fn say_not_enforced(&self, policy: &Policy) {
        for text in not_enforced(policy, &self.parts.trees) {
            self.parts.console.say(&format!("{text}; `hale doctor` lists what this host lacks"));
        }
    }

    /// Wants to know of the next change of a service's `memory.events`.
    pub(super) fn watch_memory(&mut self, service: &Name) {
        let Some(hosted) = self.services.get(service) else { return };
        if let Some(fd) = hosted.memory().and_then(|memory| memory.events_fd()) {
            // EEXIST: it is watched already, or rests.
            let _ = epoll::add(&self.epoll, fd, Source::Memory(hosted.slot()).data(), ONCE);
        }
    }

    /// A service's `memory.events` changed.
    pub(super) fn hear_memory(&mut self, slot: Slot) {
        let Some((service, hosted)) = self.by_slot(slot) else { return };
        let epoch = hosted.newest();
        let Some(memory) = hosted.memory_mut() else { return };
        // An error: its group is gone, and nothing more will come of it.
        let Ok(kills) = memory.look() else { return };
        if let Some(kills) = kills {
            let event = Event::OomKilled { service, epoch, kills, memory: memory.report() };
            self.events.push_back(event);
        }
        if self.rests.begin(slot).is_err() {
            self.listen_again(slot);
        }
    }

    /// Those that rested are listened to again: what changed meanwhile is told at once.
    pub(super) fn end_rests(&mut self) {
        for slot in self.rests.end() {
            self.listen_again(slot);
        }
    }

    fn listen_again(&mut self, slot: Slot) {
        let Some(fd) = self.names.get(&slot).and_then(|name| self.services.get(name)?.memory()?.events_fd()) else {
            return;
        };
        // ENOENT: its group was made anew, and is watched from its next start on.
        let _ = epoll::modify(&self.epoll, fd, Source::Memory(slot).data(), ONCE);
    }

    /// Some service waits for memory: looks which, about 2 µs for each.
    pub(super) fn hear_stalls(&mut self) {
        if let Some(stalls) = self.stalls.take_if(|stalls| !stalls.lives()) {
            let _ = epoll::delete(&self.epoll, stalls.fd());
        }
        for (service, hosted) in self.services.iter().filter(|(_, hosted)| hosted.lives()) {
            if let Some(stall) = hosted.memory().and_then(MemoryWatch::stall) {
                let (service, epoch) = (service.clone(), hosted.newest());
                self.events.push_back(Event::MemoryStalled { service, epoch, stall });
            }
        }
    }

    /// The kernel's log has new lines. Called before an end is told that can be such a kill, too: the kernel writes them before
    /// or right after it kills.
    pub(super) fn hear_kernel_log(&mut self) {
        let Some(log) = &self.kernel_log else { return };
        for victim in log.victims() {
            if let Some(hosted) = self.services.values_mut().find(|hosted| hosted.is_main(victim.pid)) {
                // Its end will tell.
                hosted.oom_by_log(victim.scope);
            } else if victim.killed {
                // It is dying, and still in its group.
                let Ok(groups) = std::fs::read_to_string(format!("/proc/{}/cgroup", victim.pid)) else { continue };
                let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::")) else { continue };
                let Some((service, hosted)) = self.services.iter().find(|(_, hosted)| hosted.holds(path)) else {
                    continue;
                };
                let kills = OomKills { count: 1, scope: victim.scope };
                let memory = hosted.memory().map_or(MemoryReport::default(), |memory| memory.report());
                let event = Event::OomKilled { service: service.clone(), epoch: hosted.newest(), kills, memory };
                self.events.push_back(event);
            }
        }
    }
}
