//! The order of start: `after` must name services that exist, and lead nowhere in a circle.

use crate::diagnostic::{Place, Report};
use crate::fields::nearest;
use hale_core::ids::Name;
use std::collections::{BTreeMap, BTreeSet};

/// `after` of one service, as written, with the places of the names.
pub(crate) type After = Vec<(String, Place)>;

/// Reports names that are neither services nor dependencies, names given twice, and circles. `services` and
/// `dependencies` are all of the file, also those with other mistakes; a dependency starts after nothing.
pub(crate) fn check(
    after: &BTreeMap<Name, After>,
    services: &BTreeSet<&str>,
    dependencies: &BTreeSet<&str>,
    report: &mut Report<'_>,
) {
    for (service, names) in after {
        for (index, (name, at)) in names.iter().enumerate() {
            if name == service.as_str() {
                report.error(*at, format!("service `{service}` cannot start after itself"), None);
            } else if names[..index].iter().any(|(earlier, _)| earlier == name) {
                report.error(*at, format!("`after` names `{name}` twice"), None);
            } else if !services.contains(name.as_str()) && !dependencies.contains(name.as_str()) {
                let known = services.iter().chain(dependencies).copied();
                let help = nearest(name, known).map(|word| format!("did you mean `{word}`?"));
                let message = format!("`after` names `{name}`, which is neither a service nor a dependency");
                report.error(*at, message, help);
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
    let after: BTreeMap<&str, &After> = after.iter().map(|(name, steps)| (name.as_str(), steps)).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for &start in after.keys() {
        // Depth first, with the way here: each entry is a service and how many of its steps were taken.
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, taken)) = way.pop() {
            if done.contains(name) {
                continue;
            }
            let Some((next, at)) = after.get(name).and_then(|steps| steps.get(taken)) else {
                done.insert(name);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(edges: &[(&str, &[&str])]) -> Vec<String> {
        let at = Place { file: 0, start: 0, end: 0 };
        let after = edges.iter().map(|(name, steps)| {
            let name = Name::try_from(*name).expect("it is a name");
            (name, steps.iter().map(|step| ((*step).to_owned(), at)).collect())
        });
        circles(&after.collect()).into_iter().map(|(circle, _)| circle.join(" ")).collect()
    }

    #[test]
    fn trees_and_diamonds_are_no_circles() {
        assert_eq!(found(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])]), [""; 0]);
        assert_eq!(found(&[("a", &["nobody"])]), [""; 0]);
    }

    #[test]
    fn each_circle_is_found_once() {
        assert_eq!(found(&[("a", &["b"]), ("b", &["a"])]), ["a b a"]);
        assert_eq!(found(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]), ["b c b"], "the way to it is left out");
        assert_eq!(found(&[("a", &["b"]), ("b", &["a"]), ("c", &["d"]), ("d", &["c", "a"])]), ["a b a", "c d c"]);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let names: Vec<String> = (0..5_000).map(|number| format!("s{number}")).collect();
        let steps: Vec<[&str; 1]> = names[1..].iter().map(|name| [name.as_str()]).collect();
        let edges: Vec<(&str, &[&str])> =
            names.iter().zip(&steps).map(|(name, step)| (name.as_str(), &step[..])).collect();
        assert_eq!(found(&edges), [""; 0]);
    }
}
