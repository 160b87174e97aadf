//! `listen`: the addresses at which Hale listens for a service.

use crate::diagnostic::{Mistake, Place, Report};
use crate::document::{Item, Value};
use crate::kinds::{Kind, Map, Text};
use crate::text;
use hale_core::policy::{CheckKind, CheckPolicy, LISTEN_MAX, ListenAddress};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The longest name of a descriptor (`FileDescriptorName=` in systemd.socket(5)).
const NAME_BYTES: usize = 255;

/// Addresses by name.
pub(crate) struct Addresses;

impl Addresses {
    const TEXTS: Map<Text> = Map { name, of: Text { check: address, pattern: None, default: None } };
}

impl Kind for Addresses {
    type Value = BTreeMap<String, ListenAddress>;

    fn read(&self, key: &str, item: &Item, report: &mut Report<'_>) -> Option<Self::Value> {
        let texts = Self::TEXTS.read(key, item, report)?;
        if texts.len() > LISTEN_MAX {
            let message = format!("`{key}` has {} addresses, and a service may have {LISTEN_MAX}", texts.len());
            report.error(item.at, message, None);
            return None;
        }
        texts.into_iter().map(|(name, text)| Some((name, parsed(&text).ok()?))).collect()
    }

    fn default(&self) -> Option<Self::Value> {
        Some(BTreeMap::new())
    }

    fn schema(&self) -> Json {
        let mut schema = Self::TEXTS.schema();
        schema["propertyNames"] = json!({ "pattern": format!("^[ -9;-~]{{1,{NAME_BYTES}}}$") });
        schema["maxProperties"] = LISTEN_MAX.into();
        schema
    }
}

/// Where each address of all services was first given.
#[derive(Default)]
pub(crate) struct Taken(BTreeMap<ListenAddress, Place>);

impl Taken {
    /// Reports the addresses of `item`, the value of a service's `listen`, that were given before: only one socket can
    /// be bound to each.
    pub fn add(&mut self, item: &Item, report: &mut Report<'_>) {
        let Value::Table(table) = &item.value else { return };
        let mut entries: Vec<_> = table.0.values().collect();
        entries.sort_by_key(|entry| entry.item.at);
        for entry in entries {
            let Value::Text(text) = &entry.item.value else { continue };
            let Ok(address) = parsed(text) else { continue };
            if let Some(first) = self.0.get(&address) {
                let help = format!("the first one is at {}", report.position(*first));
                report.error(entry.item.at, format!("`listen` has the address {address} twice"), Some(help));
            } else {
                self.0.insert(address, entry.item.at);
            }
        }
    }
}

/// A connection to a socket of Hale's own is made whether the service works or not: a `tcp` check there never fails.
pub(crate) fn warn_of_idle_checks(
    listen: &BTreeMap<String, ListenAddress>,
    checks: &[CheckPolicy],
    at: Place,
    report: &mut Report<'_>,
) {
    for check in checks {
        let CheckKind::Tcp { address } = &check.kind else { continue };
        if parsed(address).is_ok_and(|address| listen.values().any(|own| *own == address)) {
            let message = format!("check `{}` can never fail: Hale itself listens at {address}", check.name);
            let help = "use a check that waits for an answer, of kind \"http\" or \"exec\"".to_owned();
            report.warning(at, message, Some(help));
        }
    }
}

/// The name of a descriptor, as systemd has them: the names stand in one variable, with `:` between them.
fn name(text: &str) -> Result<String, Mistake> {
    if text.is_empty() {
        Err(Mistake::plain("is not a socket's name: it is empty"))
    } else if let Some(bad) = text.chars().find(|&c| !(c.is_ascii_graphic() || c == ' ') || c == ':') {
        Err(Mistake::plain(format!("is not a socket's name: it contains {bad:?}")))
    } else if text.len() > NAME_BYTES {
        Err(Mistake::plain(format!("is a name of {} bytes; {NAME_BYTES} are possible", text.len())))
    } else {
        Ok(text.to_owned())
    }
}

pub(crate) fn address(text: &str) -> Result<String, Mistake> {
    parsed(text).map(|_| text.to_owned())
}

pub(crate) fn parsed(text: &str) -> Result<ListenAddress, Mistake> {
    let help = "write \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/run/bot.sock\"";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = text::path(path)?;
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(Mistake::new("is not a socket's absolute path", help));
        }
        if path.len() > text::SOCKET_PATH_BYTES {
            let (bytes, most) = (path.len(), text::SOCKET_PATH_BYTES);
            return Err(Mistake::plain(format!("has a socket path of {bytes} bytes; unix(7) allows {most}")));
        }
        return Ok(ListenAddress::Unix(path));
    }
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(Mistake::new("is not an address that clients could know: its port is 0", help))
        }
        Ok(address) => Ok(ListenAddress::Tcp(address)),
        Err(_) if text::address(text).is_ok() => {
            Err(Mistake::new("is not an address to listen at: the host is not a number", help))
        }
        Err(_) => Err(Mistake::new("is not an address to listen at", help)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numbers_or_absolute_paths() {
        for text in ["127.0.0.1:8080", "0.0.0.0:1", "[::]:65535", "unix:/run/bot.sock"] {
            assert_eq!(parsed(text).unwrap().to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(text::SOCKET_PATH_BYTES));
        for text in
            ["", "8080", ":8080", "localhost:80", "127.0.0.1", "127.0.0.1:0", "::1:80", "unix:bot", "unix:/", &long]
        {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_follow_systemd() {
        for text in ["http", "a b", "~", &"x".repeat(NAME_BYTES)] {
            assert!(name(text).is_ok(), "{text}");
        }
        for text in ["", "a:b", "a\tb", "\u{7f}", "é", &"x".repeat(NAME_BYTES + 1)] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
