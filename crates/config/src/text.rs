//! Rules of the texts in the configuration: names, paths, words of a command, URLs, addresses, headers.
//!
//! Each takes the text as written and gives it back as the policy keeps it.

use crate::diagnostic::Mistake;
use std::net::Ipv6Addr;

type Checked = Result<String, Mistake>;

/// The longest path (PATH_MAX of linux/limits.h, without its NUL).
const PATH_BYTES: usize = 4_095;

/// The longest path of a Unix socket (`sun_path` of unix(7), without its NUL).
pub(crate) const SOCKET_PATH_BYTES: usize = 107;

/// The longest name of a host (RFC 1035, section 2.3.4).
const HOST_BYTES: usize = 253;

/// Variables that Hale sets for a service.
const OWN_VARIABLES: [&str; 8] = [
    "FDSTORE",
    "HALE_SERVICE",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// Any text.
pub(crate) fn any(text: &str) -> Checked {
    Ok(text.to_owned())
}

/// A text that is not empty.
pub(crate) fn not_empty(text: &str) -> Checked {
    if text.is_empty() { Err(Mistake::plain("is empty")) } else { Ok(text.to_owned()) }
}

/// One word of a command, or a variable's value: NUL ends a string of exec(3).
pub(crate) fn word(text: &str) -> Checked {
    match text.contains('\0') {
        true => Err(Mistake::plain("contains a NUL character, where the program would see its end")),
        false => Ok(text.to_owned()),
    }
}

/// A path.
pub(crate) fn path(text: &str) -> Checked {
    if text.is_empty() {
        Err(Mistake::plain("is empty, where a path is needed"))
    } else if let Some(bad) = text.chars().find(|c| c.is_control()) {
        Err(Mistake::plain(format!("is a path with the control character {bad:?}")))
    } else if text.starts_with('~') || text.contains("${") || text.starts_with('$') {
        Err(Mistake::new("is not a path that Hale can use: it does not expand `~` or variables", "write the path out"))
    } else if text.len() > PATH_BYTES {
        Err(Mistake::plain(format!("is a path of {} bytes; Linux allows {PATH_BYTES}", text.len())))
    } else {
        Ok(text.to_owned())
    }
}

/// A user's name, as passwd(5) could hold it.
pub(crate) fn user(text: &str) -> Checked {
    let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/' | ',');
    if text.is_empty() {
        Err(Mistake::new("is empty", "leave the key out to run as the user that Hale runs as"))
    } else if let Some(bad) = text.chars().find(|&c| bad(c)) {
        Err(Mistake::plain(format!("is not a user's name: it contains {bad:?}")))
    } else {
        Ok(text.to_owned())
    }
}

/// A variable's name (environ(7)).
pub(crate) fn variable(text: &str) -> Checked {
    if text.is_empty() {
        Err(Mistake::plain("is not a variable's name: it is empty"))
    } else if let Some(bad) = text.chars().find(|&c| c == '=' || c.is_control()) {
        Err(Mistake::plain(format!("is not a variable's name: it contains {bad:?}")))
    } else if OWN_VARIABLES.contains(&text) {
        Err(Mistake::new("is set by Hale itself", "remove it"))
    } else {
        Ok(text.to_owned())
    }
}

/// `http://host[:port][/path]`, the same with `https://`, or `unix:/path:/request`.
pub(crate) fn url(text: &str) -> Checked {
    let help = "write \"http://127.0.0.1:8080/health\" or \"unix:/run/app.sock:/health\"";
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(Mistake::new(
            format!("is not a URL: it contains {bad:?}"),
            "encode it with percent signs, a space is %20 (RFC 3986, section 2.1)",
        ));
    }
    if text.contains('#') {
        return Err(Mistake::new("has a fragment, which a client never sends", "remove `#` and what follows it"));
    }
    let schemes = ["http://", "https://"].map(|scheme| Some((scheme, text.strip_prefix(scheme)?)));
    if let Some((scheme, rest)) = schemes.into_iter().flatten().next() {
        let (authority, request) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(Mistake::new(
                "contains a user's name or password",
                "use headers: headers = { authorization = \"Basic ...\" }",
            ));
        }
        authority_of(authority, Port::Optional).map_err(|why| Mistake::new(format!("is not a URL: {why}"), help))?;
        let slash = if request.starts_with('/') { "" } else { "/" };
        Ok(format!("{scheme}{authority}{slash}{request}"))
    } else if let Some(rest) = text.strip_prefix("unix:") {
        match rest.split_once(':') {
            Some((socket, request)) if socket.starts_with('/') && request.starts_with('/') => {
                if socket.len() > SOCKET_PATH_BYTES {
                    let bytes = socket.len();
                    let problem = format!("has a socket path of {bytes} bytes; unix(7) allows {SOCKET_PATH_BYTES}");
                    return Err(Mistake::plain(problem));
                }
                Ok(text.to_owned())
            }
            Some(_) | None => Err(Mistake::new(
                "is not a URL: after `unix:` come the socket's absolute path, a colon and the request's path",
                "write \"unix:/run/app.sock:/health\"",
            )),
        }
    } else {
        Err(Mistake::new("is not a URL that Hale knows", help))
    }
}

/// `host:port`.
pub(crate) fn address(text: &str) -> Checked {
    match authority_of(text, Port::Required) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => {
            Err(Mistake::new(format!("is not an address: {why}"), "write \"127.0.0.1:5432\" or \"[::1]:5432\""))
        }
    }
}

/// `host:port`, or `unix:` and the absolute path of a socket.
pub(crate) fn address_or_socket(text: &str) -> Checked {
    let Some(socket) = text.strip_prefix("unix:") else { return address(text) };
    if !socket.starts_with('/') {
        Err(Mistake::new("is not an address: after `unix:` comes an absolute path", "write \"unix:/run/app.sock\""))
    } else if socket.len() > SOCKET_PATH_BYTES {
        let problem = format!("has a socket path of {} bytes; unix(7) allows {SOCKET_PATH_BYTES}", socket.len());
        Err(Mistake::plain(problem))
    } else {
        path(socket).map(|_| text.to_owned())
    }
}

/// The longest name of a service of gRPC that fits into one frame of the health check, far beyond any real one.
const GRPC_SERVICE_BYTES: usize = 1_024;

/// A service's name as grpc.health.v1 has it, which may be empty.
pub(crate) fn grpc_service(text: &str) -> Checked {
    if text.len() > GRPC_SERVICE_BYTES {
        Err(Mistake::plain(format!("has {} bytes; {GRPC_SERVICE_BYTES} are allowed", text.len())))
    } else if let Some(bad) = text.chars().find(|c| c.is_control()) {
        Err(Mistake::plain(format!("contains the control character {bad:?}")))
    } else {
        Ok(text.to_owned())
    }
}

/// Whether a port must be given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Required,
    Optional,
}

/// Checks `host[:port]` (RFC 3986, section 3.2; IPv6 in brackets).
fn authority_of(text: &str, needed: Port) -> Result<(), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("`]` is missing after the IPv6 address")?;
            host.parse::<Ipv6Addr>().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or("`:` must follow `]`")?) })
        }
        None if text.matches(':').count() > 1 => return Err("an IPv6 address stands in brackets".to_owned()),
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let bad = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_');
            if let Some(bad) = host.chars().find(|&c| bad(c)) {
                return Err(format!("the host's name contains {bad:?}"));
            }
            (host, port)
        }
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if host.len() > HOST_BYTES {
        return Err(format!("the host's name has more than {HOST_BYTES} characters"));
    }
    match port {
        None if needed == Port::Required => Err("the port is missing".to_owned()),
        None => Ok(()),
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Ok(())
        }
        Some(port) => Err(format!("{port:?} is not a port from 1 to 65535")),
    }
}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A request's method (RFC 9110, section 9.1), upper case.
pub(crate) fn method(text: &str) -> Checked {
    let upper = text.to_ascii_uppercase();
    if text.is_empty() || !text.chars().all(is_token_char) {
        Err(Mistake::new("is not a method of HTTP", "for example \"GET\" or \"HEAD\""))
    } else if upper != text {
        Err(Mistake::new("must be in upper case: methods of HTTP are", format!("write {upper:?}")))
    } else if text == "CONNECT" {
        Err(Mistake::plain("cannot be CONNECT: its answer is a tunnel, not a page"))
    } else {
        Ok(text.to_owned())
    }
}

/// A header's name (RFC 9110, section 5.1), in lower case, since case does not matter.
pub(crate) fn header_name(text: &str) -> Checked {
    let lower = text.to_ascii_lowercase();
    if text.is_empty() || !text.chars().all(is_token_char) {
        Err(Mistake::plain("is not a header's name"))
    } else if ["connection", "content-length", "transfer-encoding", "upgrade"].contains(&lower.as_str()) {
        Err(Mistake::new("is a header that frames the request and is Hale's own", "remove it"))
    } else {
        Ok(lower)
    }
}

/// A header's value (RFC 9110, section 5.5), without the bytes beyond ASCII that it calls obsolete.
pub(crate) fn header_value(text: &str) -> Checked {
    match text.chars().find(|&c| !(c.is_ascii_graphic() || c == ' ' || c == '\t')) {
        Some(bad) => Err(Mistake::plain(format!("is not a header's value: it contains {bad:?}"))),
        None => Ok(text.trim_matches([' ', '\t']).to_owned()),
    }
}

/// A JSON pointer (RFC 6901).
pub(crate) fn json_pointer(text: &str) -> Checked {
    if !text.is_empty() && !text.starts_with('/') {
        let help = format!("write \"/{}\"", text.trim_start_matches('$').trim_start_matches('.').replace('.', "/"));
        return Err(Mistake::new("is not a JSON pointer (RFC 6901): it does not start with `/`", help));
    }
    let escapes = text.split('~').skip(1);
    if escapes.into_iter().any(|after| !after.starts_with(['0', '1'])) {
        return Err(Mistake::new("is not a JSON pointer (RFC 6901)", "`~` is written ~0, `/` inside of a name ~1"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_kept_with_a_path() {
        for (text, kept) in [
            ("http://127.0.0.1", "http://127.0.0.1/"),
            ("http://localhost:80?x=1", "http://localhost:80/?x=1"),
            ("http://[::1]:8080/health", "http://[::1]:8080/health"),
            ("https://a.example", "https://a.example/"),
            ("unix:/run/app.sock:/health", "unix:/run/app.sock:/health"),
        ] {
            assert_eq!(url(text).as_deref(), Ok(kept));
        }
    }

    #[test]
    fn what_is_not_a_url_is_refused() {
        for text in [
            "",
            "http://",
            "http://:80/",
            "http://a:0/",
            "http://a:99999/",
            "http://a:+1/",
            "http://a b/",
            "http://a/#x",
            "http://u:p@a/",
            "https://",
            "https://u:p@a/",
            "ftp://a/",
            "a/b",
            "http://[::1/",
            "http://[::g]/",
            "http://[::1]80/",
            "http://::1/",
            "unix:/run/app.sock",
            "unix:run/app.sock:/",
            "unix:/run/app.sock:x",
            "http://a/\r\nx: y",
        ] {
            assert!(url(text).is_err(), "{text:?}");
        }
        assert!(url(&format!("unix:/{}:/", "x".repeat(SOCKET_PATH_BYTES))).is_err());
    }

    #[test]
    fn addresses_have_host_and_port() {
        for text in ["127.0.0.1:1", "db.example:5432", "[::1]:65535"] {
            assert!(address(text).is_ok(), "{text}");
        }
        for text in ["", ":1", "a", "a:", "a:65536", "a:x", "::1:5432", "[::1]", "a/b:1"] {
            assert!(address(text).is_err(), "{text}");
            assert!(address_or_socket(text).is_err(), "{text}");
        }
        assert!(address_or_socket("unix:/run/app.sock").is_ok());
        for text in ["unix:", "unix:app.sock", "unix:/a\nb", &format!("unix:/{}", "x".repeat(SOCKET_PATH_BYTES))] {
            assert!(address_or_socket(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_cannot_smuggle() {
        assert_eq!(header_name("Accept").as_deref(), Ok("accept"));
        assert!(header_name("a b").is_err());
        assert!(header_name("Transfer-Encoding").is_err());
        assert!(header_value("x\r\ny: z").is_err());
        assert!(header_value("é").is_err());
        assert_eq!(header_value(" x ").as_deref(), Ok("x"));
    }

    #[test]
    fn json_pointers_follow_the_rfc() {
        for text in ["", "/", "/status", "/a~1b/~0/0"] {
            assert!(json_pointer(text).is_ok(), "{text}");
        }
        for text in ["status", "$.status", "/a~", "/a~2"] {
            assert!(json_pointer(text).is_err(), "{text}");
        }
    }
}
