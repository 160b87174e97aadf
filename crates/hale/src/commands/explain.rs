//! `hale explain ID`: the decisions of an incident with all that they went by, and each of them made once more from its record.

use crate::cli::{Format, Global};
use crate::configuration;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::history;
use crate::terminal::escape;
use hale_core::analyze::blame;
use hale_core::incident::line;
use hale_core::plan::{before_limit, ladder, reboot};
use hale_core::record::{Body, CORE_VERSION, Record};
use hale_daemon::api::view::rfc3339;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::Write;

/// What making a decision once more came to.
#[derive(Debug, Clone, PartialEq)]
enum Again {
    /// The same, to the last bit of its JSON.
    Same,
    /// Something else.
    Differs(Value),
    /// It was made by another version of the rules, and is not compared.
    OtherCore,
}

/// A decision on record.
struct Decision {
    rule: String,
    core: u32,
    policy: Value,
    read: Value,
    answer: Value,
    again: Again,
}

/// Explains an incident, or the one decision of a record that belongs to none. Fails if a decision does not follow from what is
/// on record with it.
pub fn run(id: u64, format: Format, global: &Global, out: &mut impl Write) -> Result<Exit, Failure> {
    let state = configuration::directories(global)?.state;
    let records = history::of_incident(&state, id)?;
    let decisions: Vec<(&Record, Decision)> =
        records.iter().filter_map(|record| Some((record, decision(&record.body)?))).collect();
    if decisions.is_empty() {
        let message =
            format!("there is no decision of an incident or record {id} in the ledger of {}", state.display());
        return Err(Failure::new(Exit::Failed, message).help("`hale incidents` lists the incidents"));
    }
    if format.json {
        let all: Vec<Value> = decisions.iter().map(|(record, decision)| view(record, decision)).collect();
        serde_json::to_writer_pretty(&mut *out, &all).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        for (record, decision) in &decisions {
            write(record, decision, out)?;
        }
    }
    let differs = decisions.iter().filter(|(_, decision)| matches!(decision.again, Again::Differs(_))).count();
    if differs > 0 {
        let message =
            format!("{differs} of {} decisions do not follow from what is on record with them", decisions.len());
        return Err(Failure::new(Exit::Failed, message).help(
            "somebody has changed these records, or this is an error in Hale: `hale ledger verify` tells which",
        ));
    }
    Ok(Exit::Done)
}

/// The decision that a record is, made once more.
fn decision(body: &Body) -> Option<Decision> {
    if let Body::Decided(it) = body {
        let (made, again) = (&it.choice, ladder::decide(&it.read));
        Some(compare((&it.rule, ladder::RULE, it.core), &it.policy, &it.read, made, &again))
    } else if let Body::Blamed(it) | Body::NotItsFault { judged: it, .. } = body {
        let (made, again) = (&it.judgement, blame::judge(&it.read));
        Some(compare((&it.rule, blame::RULE, it.core), &it.policy, &it.read, made, &again))
    } else if let Body::RebootDecided(it) = body {
        let (made, again) = (&it.choice, reboot::decide(&it.read));
        Some(compare((&it.rule, reboot::RULE, it.core), &it.policy, &it.read, made, &again))
    } else if let Body::RestartPlanned(it) = body {
        let (made, again) = (Some((it.reaches, it.verdict)), before_limit::decide(&it.read));
        Some(compare((&it.rule, before_limit::RULE, it.core), &it.policy, &it.read, &made, &again))
    } else {
        None
    }
}

fn compare<Read: Serialize, Answer: Serialize>(
    (rule, own_rule, core): (&str, &str, u32),
    policy: &impl Serialize,
    read: &Read,
    made: &Answer,
    again: &Answer,
) -> Decision {
    let (answer, follows) = (value(made), value(again));
    let again = match () {
        () if core != CORE_VERSION || rule != own_rule => Again::OtherCore,
        () if answer == follows => Again::Same,
        () => Again::Differs(follows),
    };
    Decision { rule: rule.to_owned(), core, policy: value(policy), read: value(read), answer, again }
}

/// As JSON. What comes from a record can always be written: it was.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

fn view(record: &Record, decision: &Decision) -> Value {
    let (again, follows) = match &decision.again {
        Again::Same => ("same", Value::Null),
        Again::Differs(follows) => ("differs", follows.clone()),
        Again::OtherCore => ("other_version", Value::Null),
    };
    let (what, why) = line(&record.body).unwrap_or_default();
    json!({
        "record": record.id, "at": rfc3339(record.at.wall_us), "service": record.service, "what": what, "why": why,
        "rule": decision.rule, "core": decision.core, "policy": decision.policy, "read": decision.read,
        "answer": decision.answer, "again": again, "follows": follows,
    })
}

fn write(record: &Record, decision: &Decision, out: &mut impl Write) -> std::io::Result<()> {
    let of = record.service.as_ref().map_or("the host", |service| service.as_str());
    let (what, why) = line(&record.body).unwrap_or_default();
    let why = why.map_or(String::new(), |why| format!(", because {why}"));
    writeln!(out, "record {}, {}, {of}: {}{}", record.id, rfc3339(record.at.wall_us), escape(&what), escape(&why))?;
    writeln!(out, "  rule {} of core {}, policy {}", decision.rule, decision.core, plain(&decision.policy))?;
    writeln!(out, "  it read (times in microseconds):")?;
    for (name, value) in decision.read.as_object().into_iter().flatten() {
        writeln!(out, "    {name} = {}", plain(value))?;
    }
    match &decision.again {
        Again::Same => writeln!(out, "  made once more from these values: the same")?,
        Again::OtherCore => {
            writeln!(out, "  not made once more: these are rules of another version (this is core {CORE_VERSION})")?;
        }
        Again::Differs(follows) => {
            writeln!(out, "  made once more from these values: NOT the same")?;
            writeln!(out, "    on record: {}", plain(&decision.answer))?;
            writeln!(out, "    follows:   {}", plain(follows))?;
        }
    }
    writeln!(out)
}

/// JSON on one line that no terminal obeys; a text without its quotes.
fn plain(value: &Value) -> String {
    escape(value.as_str().map_or_else(|| value.to_string(), str::to_owned).as_str()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hale_core::incident::Cause;
    use hale_core::plan::ladder::Counters;
    use hale_core::policy::{Mode, PolicyHash};
    use hale_core::time::{Monotonic, Span};

    fn decided(core: u32) -> hale_core::plan::ladder::Decision {
        let restart = hale_core::policy::RestartPolicy {
            first_delay: Span::ZERO,
            delay: Span::from_ms(100),
            max_delay: Span::from_secs(30),
            healthy_after: Span::from_secs(60),
            crash_loop: None,
            held_delay: Span::from_secs(300),
            on_success: true,
            before_limit: None,
        };
        let read = ladder::read(Cause::Hang, Mode::Heal, None, &restart, &Counters::default(), Monotonic::default(), 7);
        let choice = ladder::decide(&read);
        ladder::Decision { rule: ladder::RULE.into(), core, policy: PolicyHash::default(), read, choice }
    }

    #[test]
    fn one_changed_value_is_found_and_other_versions_are_not_compared() {
        let again = |it: ladder::Decision| decision(&Body::Decided(Box::new(it))).unwrap().again;
        assert_eq!(again(decided(CORE_VERSION)), Again::Same);
        assert_eq!(again(decided(CORE_VERSION + 1)), Again::OtherCore);
        let mut changed = decided(CORE_VERSION);
        changed.read.failures = 5;
        let Again::Differs(follows) = again(changed) else { panic!() };
        assert_eq!(follows["reason"]["failures"], 5);
    }
}
