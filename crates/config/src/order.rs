//! The order of start: `after` must name services that exist, and lead nowhere in a circle.

use crate::diagnostic::{Place, Report};
use crate::fields::nearest;
use hale_core::ids::Name;
use std::collections::BTreeMap;

/// `after` of one service, as written, with the places of the names.
pub(crate) type After = Vec<(String, Place)>;

/// Reports names that are not services, names given twice, and circles. `declared` are all services of the
/// file, also those with other mistakes; `elsewhere` are names whose own table was refused already.
pub(crate) fn check(after: &BTreeMap<Name, After>, declared: &[&str], elsewhere: &[&str], report: &mut Report<'_>) {
    for (service, names) in after {
        for (index, (name, at)) in names.iter().enumerate() {
            if name == service.as_str() {
                report.error(*at, format!("service `{service}` cannot start after itself"), None);
            } else if names[..index].iter().any(|(earlier, _)| earlier == name) {
                report.error(*at, format!("`after` names `{name}` twice"), None);
            } else if !declared.contains(&name.as_str()) && !elsewhere.contains(&name.as_str()) {
                let help = nearest(name, declared.iter().copied()).map(|word| format!("did you mean `{word}`?"));
                report.error(*at, format!("`after` names `{name}`, which is not a service"), help);
            }
        }
    }
    for (circle, at) in circles(after) {
        let help = "each waits for the next to be ready first; remove one of them".to_owned();
        report.error(at, format!("services wait for each other in a circle: {}", circle.join(" -> ")), Some(help));
    }
}

/// Each circle once, from its first name in alphabetical order, with the place of that name's step.
fn circles(after: &BTreeMap<Name, After>) -> Vec<(Vec<String>, Place)> {
    let steps = |name: &str| after.iter().find(|(key, _)| key.as_str() == name).map_or(&[][..], |(_, steps)| steps);
    let mut done: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    for start in after.keys().map(Name::as_str) {
        // Depth first, with the way here: each entry is a service and how many of its steps were taken.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, taken)) = way.pop() {
            if done.contains(&name) {
                continue;
            }
            let Some((next, at)) = steps(name).get(taken) else {
                done.push(name);
                continue;
            };
            way.push((name, taken + 1));
            if next == name {
                continue;
            }
            match way.iter().position(|(earlier, _)| earlier == next) {
                Some(from) => {
                    let mut circle: Vec<String> = way[from..].iter().map(|(name, _)| (*name).to_owned()).collect();
                    circle.push(next.clone());
                    found.push((circle, *at));
                }
                None => way.push((next, 0)),
            }
        }
    }
    found
}
