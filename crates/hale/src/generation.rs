//! Generations on the command line: named by the beginning of what names them, as commits of git are.

use crate::exit::Exit;
use crate::failure::Failure;
use hale_core::ids::{GenerationId, Name};
use hale_core::safeswitch::Part;
use hale_core::status::State;
use hale_core::time::Span;
use hale_daemon::api::view::Service;

/// How many of those that begin alike are named: enough to choose from.
const NAMED_MAX: usize = 8;

/// Whether `text` is its name, or how that or the last part of it begins.
fn begins_so(id: &GenerationId, text: &str) -> bool {
    id.as_str().starts_with(text) || id.as_str().rsplit('/').next().is_some_and(|last| last.starts_with(text))
}

/// The one of these that `text` names.
pub fn find<'a>(text: &str, all: &'a [(Name, GenerationId)]) -> Result<&'a (Name, GenerationId), Failure> {
    let exact: Vec<_> = all.iter().filter(|(_, id)| id.as_str() == text).collect();
    let found = if exact.is_empty() { all.iter().filter(|(_, id)| begins_so(id, text)).collect() } else { exact };
    match found[..] {
        [one] => Ok(one),
        [] => Err(Failure::new(Exit::Failed, format!("there is no generation {text:?} among these"))),
        _ => {
            let mut named: Vec<String> =
                found.iter().take(NAMED_MAX).map(|(service, id)| format!("{id} of {service}")).collect();
            if found.len() > NAMED_MAX {
                named.push(format!("{} more", found.len() - NAMED_MAX));
            }
            let message = format!("{text:?} is more than one generation: {}", named.join(", "));
            Err(Failure::new(Exit::Usage, message))
        }
    }
}

/// What a service that is being switched is doing, in a sentence; `None`: it is not.
pub fn switching(service: &Service) -> Option<String> {
    let switch = service.switch.as_ref()?;
    let to = switch.to.short();
    let words = match (switch.stage.as_str(), service.probation_ms_left) {
        ("intended", _) => format!("is to be switched to {to}, once that is on record"),
        ("prepared", _) => format!("is to be switched to {to}, once what it says of the data is on record"),
        ("switching", _) => format!("is being switched to {to}"),
        ("probation", _) if !switch.runs && matches!(service.state, State::Healthy | State::Degraded) => {
            let name = &service.name;
            format!(
                "{to} is what its next process runs, and on probation from then on (`hale restart {name}` begins that)"
            )
        }
        ("probation", Some(left)) => {
            format!("{to} is on probation: all checks have to hold for {} more", span(left))
        }
        ("committing", _) => format!("{to} has proved itself, and is committed"),
        ("going_back", _) => format!("goes back from {to}"),
        ("validating", _) => "what was good has to be healthy again".to_owned(),
        (other, _) => format!("is being switched to {to}: {other}"),
    };
    Some(match switch.part {
        Part::Store => words,
        Part::Files => format!("its files: {words}"),
    })
}

/// Milliseconds of an answer, in whole seconds where there are any: less would flicker.
pub fn span(ms: f64) -> Span {
    // Beyond the range of u64 this is its end, and nothing is its beginning.
    let ms = ms.ceil() as u64;
    if ms >= 1_000 { Span::from_secs(ms.div_ceil(1_000)) } else { Span::from_ms(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_enough_when_it_is_the_only_one() {
        let one = |service: &str, id: &str| (Name::try_from(service).unwrap(), GenerationId::try_from(id).unwrap());
        let all =
            [one("web", "abc1"), one("web", "abc"), one("bot", "/nix/store/xyz-bot"), one("api", "/nix/store/xyz-bot")];
        assert_eq!(find("abc1", &all).unwrap(), &all[0]);
        assert_eq!(find("abc", &all).unwrap(), &all[1], "all of a name is that one, whatever begins so, too");
        assert!(find("ab", &all).is_err());
        assert!(find("x", &all[..3]).is_ok_and(|found| found.0.as_str() == "bot"));
        let text = format!("{:?}", find("xyz-bot", &all).unwrap_err());
        assert!(text.contains("/nix/store/xyz-bot of bot, /nix/store/xyz-bot of api"), "{text}");
        assert!(format!("{:?}", find("q", &all).unwrap_err()).contains("there is no generation"));
    }

    #[test]
    fn what_is_left_is_told_in_whole_seconds() {
        assert_eq!(span(41_000.1).to_string(), "42 s");
        assert_eq!(span(0.2).to_string(), "1 ms");
        assert_eq!(span(-1.0).to_string(), "0 ms");
    }
}
