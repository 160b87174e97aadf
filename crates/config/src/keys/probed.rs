//! The keys of the checks that ask the service something, or wait for its word.

use super::{
    CHECK_NAME, CONFIRM, EVERY, FAILURES, HEARTBEAT_FAILURES, KIND, Key, SUCCESSES, Section, TIMEOUT, command, key,
    required, text as rule,
};
use crate::kinds::{AnyJson, Duration, List, Map, StatusCodes, Text};
use crate::text;

/// A check of kind `http`.
pub(crate) static HTTP: Section = Section {
    title: "a check of kind \"http\"",
    keys: &[
        &KIND,
        &CHECK_NAME,
        &EVERY,
        &TIMEOUT,
        &FAILURES,
        &SUCCESSES,
        &CONFIRM,
        &URL,
        &CA_FILE,
        &METHOD,
        &HEADERS,
        &STATUS,
        &BODY_CONTAINS,
        &JSON,
        &FASTER_THAN,
    ],
    planned: &[],
};

pub(crate) static URL: Key<Text> = required(
    "url",
    Text { check: text::url, pattern: Some(URL_PATTERN), default: None },
    "url = \"http://127.0.0.1:8080/health\"",
    "`http://host[:port]/path`, `https://host[:port]/path`, or `unix:/path/of/socket:/request`.",
);
pub(crate) const URL_PATTERN: &str = "^(https?://|unix:/)";
pub(crate) static CA_FILE: Key<Text> = key(
    "ca_file",
    rule(text::path),
    "The only certificates (PEM) that an `https` server's own may be signed by. Default: those that the system trusts.",
);
pub(crate) static METHOD: Key<Text> =
    key("method", Text { check: text::method, pattern: None, default: Some("GET") }, "The request's method.");
pub(crate) static HEADERS: Key<Map<Text>> = key(
    "headers",
    Map { name: text::header_name, of: rule(text::header_value) },
    "Headers of the request, beside `host`, which follows from the URL unless it is given here.",
);
pub(crate) static STATUS: Key<StatusCodes> = key("status", StatusCodes, "Status codes that pass.");
pub(crate) static BODY_CONTAINS: Key<Text> =
    key("body_contains", rule(text::not_empty), "Text that the body must contain. Default: any body passes.");
pub(crate) static JSON: Key<Map<AnyJson>> = key(
    "json",
    Map { name: text::json_pointer, of: AnyJson },
    "JSON pointers (RFC 6901) into the body, and the values that must stand there.",
);
pub(crate) static FASTER_THAN: Key<Duration> = key(
    "faster_than",
    Duration::positive(None),
    "A right answer that took longer is a failure, named slow, not down. Default: only `timeout` counts.",
);

/// A check of kind `tcp`.
pub(crate) static TCP: Section = Section {
    title: "a check of kind \"tcp\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &FAILURES, &SUCCESSES, &CONFIRM, &ADDRESS],
    planned: &[],
};

pub(crate) static ADDRESS: Key<Text> = required(
    "address",
    rule(text::address),
    "address = \"127.0.0.1:5432\"",
    "`host:port` that must accept a connection; IPv6 in brackets.",
);

/// A check of kind `exec`.
pub(crate) static EXEC: Section = Section {
    title: "a check of kind \"exec\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &FAILURES, &SUCCESSES, &CONFIRM, &EXEC_COMMAND, &EXEC_USER],
    planned: &[],
};

pub(crate) static EXEC_COMMAND: Key<List<Text>> = required(
    "command",
    command(),
    r#"command = ["bin/check", "--quick"]"#,
    "Program and arguments; exit status 0 passes. Found as the service's own command is.",
);
pub(crate) static EXEC_USER: Key<Text> =
    key("user", rule(text::user), "The user to run as, by name. Default: the service's.");

/// A check of kind `heartbeat`.
pub(crate) static HEARTBEAT: Section = Section {
    title: "a check of kind \"heartbeat\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &HEARTBEAT_FAILURES, &SUCCESSES, &CONFIRM, &HEARTBEAT_WITHIN],
    planned: &[],
};

pub(crate) static HEARTBEAT_WITHIN: Key<Duration> = required(
    "within",
    Duration::positive(None),
    "within = \"30s\"",
    "The longest time between two WATCHDOG=1 on the notify socket.",
);

/// A check of kind `grpc`.
pub(crate) static GRPC: Section = Section {
    title: "a check of kind \"grpc\"",
    keys: &[&KIND, &CHECK_NAME, &EVERY, &TIMEOUT, &FAILURES, &SUCCESSES, &CONFIRM, &GRPC_ADDRESS, &GRPC_SERVICE],
    planned: &[],
};

pub(crate) static GRPC_ADDRESS: Key<Text> = required(
    "address",
    rule(text::address_or_socket),
    "address = \"127.0.0.1:50051\"",
    "`host:port`, IPv6 in brackets, or `unix:/absolute/path`: where grpc.health.v1.Health is served, without TLS.",
);
pub(crate) static GRPC_SERVICE: Key<Text> = key(
    "service",
    Text { check: text::grpc_service, pattern: None, default: Some("") },
    "Which service must be serving, as the server knows it. Default: the server as a whole.",
);
