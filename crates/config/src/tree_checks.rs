//! The checks that look at the processes of a service: `memory`, `cpu`, `open_files`, `listen`.

use crate::diagnostic::{Mistake, Report};
use crate::document::{Item, Value};
use crate::fields::Fields;
use crate::keys::{self, tree};
use crate::kinds::{Bytes, Kind, told, wrong_type};
use crate::listen as addresses;
use hale_core::policy::{CheckKind, MemoryBound};
use serde_json::{Value as Json, json};

/// The form of a whole percentage.
const PERCENT_PATTERN: &str = r"^\s*[0-9]+\s*%\s*$";

/// A whole percentage, as text.
pub(crate) struct Percent {
    pub min: u32,
    pub max: u32,
}

impl Percent {
    fn parse(&self, text: &str) -> Result<u32, Mistake> {
        let digits = text.trim().strip_suffix('%').map(str::trim_end);
        let number = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.and_then(|digits| digits.parse::<u32>().ok());
        let Some(number) = number else {
            return Err(Mistake::new("is not a percentage: it takes a whole number and `%`", "for example \"80%\""));
        };
        if (self.min..=self.max).contains(&number) {
            Ok(number)
        } else {
            Err(Mistake::plain(format!("must be from {}% to {}%", self.min, self.max)))
        }
    }
}

impl Kind for Percent {
    type Value = u32;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<u32> {
        let help = match &item.value {
            Value::Text(text) => return told(self.parse(text), key, item, report),
            Value::Integer(number) => format!("write \"{number}%\""),
            Value::Huge(_) | Value::Float(_) | Value::Flag(_) | Value::Date | Value::List(_) | Value::Table(_) => {
                "for example \"90%\"".to_owned()
            }
        };
        wrong_type(key, item, "a percentage in quotes", Some(help), report)
    }

    fn default(&self) -> Option<u32> {
        None
    }

    fn schema(&self) -> Json {
        json!({ "type": "string", "pattern": PERCENT_PATTERN, "examples": ["90%", "150%"] })
    }
}

/// A share of `memory_limit`, or a size.
pub(crate) struct MemoryBelow {
    pub min: u64,
    pub max: u64,
}

/// As it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Below {
    Percent(u32),
    Bytes(u64),
}

impl MemoryBelow {
    const SHARE: Percent = Percent { min: 1, max: 100 };

    fn size(&self) -> Bytes {
        Bytes { per_second: false, min: self.min, max: self.max, default: None }
    }
}

impl Kind for MemoryBelow {
    type Value = Below;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Below> {
        match &item.value {
            Value::Text(text) if text.contains('%') => Self::SHARE.read(key, item, report).map(Below::Percent),
            Value::Text(_) => self.size().read(key, item, report).map(Below::Bytes),
            Value::Integer(_)
            | Value::Huge(_)
            | Value::Float(_)
            | Value::Flag(_)
            | Value::Date
            | Value::List(_)
            | Value::Table(_) => {
                let help = "for example \"80%\" of memory_limit, or \"400MiB\"".to_owned();
                wrong_type(key, item, "a percentage or a size in quotes", Some(help), report)
            }
        }
    }

    fn default(&self) -> Option<Below> {
        None
    }

    fn schema(&self) -> Json {
        let share = json!({ "type": "string", "pattern": PERCENT_PATTERN });
        json!({ "anyOf": [share, self.size().schema()], "examples": ["80%", "400MiB"] })
    }
}

pub(crate) fn memory(check: &Fields<'_>, service: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let percent = match check.get(&tree::MEMORY_BELOW, report)? {
        Below::Bytes(bytes) => return Some(CheckKind::Memory { below: MemoryBound::Bytes(bytes) }),
        Below::Percent(percent) => percent,
    };
    let key = keys::MEMORY_LIMIT.name;
    let Some(entry) = service.entry(key) else {
        let message = format!("`below` is a share of `{key}`, which the service does not have");
        let help = format!("add {key} = \"512MiB\" to the service, or write a size: below = \"400MiB\"");
        report.error(check.place("below"), message, Some(help));
        return None;
    };
    // A wrong one is reported with the service.
    let limit_bytes = match &entry.item.value {
        Value::Text(text) => crate::units::size(text).ok()?,
        Value::Integer(_)
        | Value::Huge(_)
        | Value::Float(_)
        | Value::Flag(_)
        | Value::Date
        | Value::List(_)
        | Value::Table(_) => return None,
    };
    Some(CheckKind::Memory { below: MemoryBound::OfLimit { percent, limit_bytes } })
}

pub(crate) fn cpu(check: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let below_percent = check.get(&tree::CPU_BELOW, report);
    let window = check.get(&tree::CPU_FOR, report);
    Some(CheckKind::Cpu { below_percent: below_percent?, window: window? })
}

pub(crate) fn open_files(check: &Fields<'_>, service: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let below = check.get(&tree::OPEN_FILES_BELOW, report)?;
    if let Some(Value::Integer(limit)) = service.entry(keys::OPEN_FILES_LIMIT.name).map(|entry| &entry.item.value)
        && *limit < i64::from(below)
    {
        let message = format!("`below` ({below}) is never reached: `open_files_limit` is {limit}");
        report.warning(check.place("below"), message, Some(format!("a process has at most {limit} descriptors")));
    }
    Some(CheckKind::OpenFiles { below })
}

pub(crate) fn listen(check: &Fields<'_>, report: &mut Report<'_>) -> Option<CheckKind> {
    let text = check.get(&tree::LISTEN_ADDRESS, report)?;
    // It was just checked.
    addresses::parsed(&text).ok().map(|address| CheckKind::Listen { address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_whole_and_in_range() {
        let percent = Percent { min: 1, max: 150 };
        assert_eq!(percent.parse("80%").unwrap(), 80);
        assert_eq!(percent.parse(" 150 % ").unwrap(), 150);
        for text in ["", "80", "%", "-1%", "+1%", "0%", "151%", "1.5%", "80%%", "99999999999%"] {
            assert!(percent.parse(text).is_err(), "{text}");
        }
    }
}
