//! The limits of one service, written into its cgroup before the first process in it is made.

use super::cgroup::Group;
use super::delegate::{Controller, Lacking, Why};
use super::{Place, Tree, Trees};
use hale_core::policy::{Policy, ResourceLimits};
use std::io;

/// `cpu.weight` of a group that nobody gave one (<https://docs.kernel.org/admin-guide/cgroup-v2.html>).
const CPU_WEIGHT_DEFAULT: u32 = 100;

impl Tree {
    /// Has the kernel enforce `limits` from now on, and lifts those that are not among them. Where the group does not
    /// have a controller, its limit is left out: [`not_enforced`] has said so.
    ///
    /// # Errors
    ///
    /// The file of the limit that the kernel refused, and why: `ENOSPC` and the like, never that there is no controller.
    pub fn limit(&self, limits: &ResourceLimits) -> Result<(), (&'static str, io::Error)> {
        let Place::Cgroup { group, .. } = &self.0.place else { return Ok(()) };
        let max = |number: Option<u64>| number.map_or(String::from("max"), |number| number.to_string());
        write(group, "memory.max", &max(limits.memory_bytes))?;
        write(group, "pids.max", &max(limits.tasks.map(u64::from)))?;
        write(group, "cpu.weight", &limits.cpu_weight.unwrap_or(CPU_WEIGHT_DEFAULT).to_string())
    }
}

fn write(group: &Group, file: &'static str, value: &str) -> Result<(), (&'static str, io::Error)> {
    match group.write(file, value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err((file, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether a service asks for what `controller` does.
#[must_use]
pub fn asks_for(limits: &ResourceLimits, controller: Controller) -> bool {
    match controller {
        Controller::Memory => limits.memory_bytes.is_some(),
        Controller::Tasks => limits.tasks.is_some(),
        Controller::Cpu => limits.cpu_weight.is_some(),
    }
}

/// The services of `policy` that ask for what `controller` does, for a message.
#[must_use]
pub fn asking(policy: &Policy, controller: Controller) -> Vec<&str> {
    let asks = |service: &hale_core::policy::ServicePolicy| asks_for(&service.limits, controller);
    policy.services.iter().filter(|(_, service)| asks(service)).map(|(name, _)| name.as_str()).collect()
}

/// A sentence for each key of `policy` that cannot be enforced here: it is never silently ignored.
#[must_use]
pub fn not_enforced(policy: &Policy, trees: &Trees) -> Vec<String> {
    let sentence = |Lacking { controller, why }: &Lacking| {
        let services = asking(policy, *controller);
        let (key, name) = (controller.key(), controller.name());
        let because = match why {
            Why::NoCgroup => why.to_string(),
            Why::NotGiven { .. } | Why::Shared { .. } | Why::Refused { .. } => {
                format!("it needs the cgroup controller {name}, and {why}")
            }
        };
        (!services.is_empty()).then(|| format!("{key} of {} is not enforced: {because}", services.join(", ")))
    };
    trees.lacking().iter().filter_map(sentence).collect()
}
