//! Takes secrets out of lines of configuration before anybody is shown them.
//!
//! By the key that a value has, by the shape of the value, and by the values that are known. It rather takes too much: a line
//! without its value still says that it has changed.

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// The shortest known value that is looked for: shorter ones are words, numbers, `true`.
const KNOWN_BYTES_MIN: usize = 6;

/// The shortest run of letters and digits of all three kinds (upper case, lower case, digits) that is taken for a secret: keys
/// of 120 bits have 20 characters in base 64, and names in camel case with a digit are mostly shorter.
const MIXED_MIN: usize = 20;

/// The same for hexadecimal digits alone: 128 bits.
const HEX_MIN: usize = 32;

/// Parts of a key's words that say that its value is a secret.
const IN_WORDS: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "privatekey",
    "accesskey",
    "authkey",
    "authorization",
    "cookie",
    "bearer",
    "requirepass",
    "masterauth",
];

/// Whole words of keys that say it.
const WORDS: [&str; 8] = ["key", "keys", "pass", "pwd", "pw", "psk", "pin", "salt"];

/// How tokens of well-known services begin, and how many characters follow at least.
const PREFIXES: [(&str, usize); 30] = [
    ("sk-", 16),
    ("sk_live_", 10),
    ("sk_test_", 10),
    ("rk_live_", 10),
    ("pk_live_", 10),
    ("whsec_", 10),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxa-", 10),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxr-", 10),
    ("xoxs-", 10),
    ("xapp-", 10),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 20),
    ("hf_", 20),
    ("npm_", 20),
    ("pypi-", 20),
    ("dop_v1_", 20),
    ("SG.", 20),
    ("eyJ", 20),
    ("AGE-SECRET-KEY-1", 20),
    ("hvs.", 20),
];

/// Takes secrets out of texts.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    /// Longest first: one may be part of another.
    known: Vec<String>,
}

/// What lines before have to say about the next one.
#[derive(Debug, Default)]
enum Within {
    #[default]
    Nothing,
    /// Between the lines that begin and end a key in PEM (RFC 7468).
    Pem,
    /// Between quotes of three characters.
    Quotes(&'static str),
    /// Lines that belong to a key without a value on its line: further in than it, or, at the same place, of a list.
    Block { indent: usize },
}

impl Redactor {
    /// `known` are secrets as such, the values of environment files above all. Those below 6 bytes are not looked for.
    pub fn new(known: impl IntoIterator<Item = String>) -> Self {
        let mut known: Vec<String> = known.into_iter().filter(|value| value.len() >= KNOWN_BYTES_MIN).collect();
        known.sort_by(|a, b| (b.len(), a).cmp(&(a.len(), b)));
        known.dedup();
        Self { known }
    }

    /// The lines of a text, in their order, without its secrets.
    pub(super) fn lines<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut within = Within::default();
        lines.into_iter().map(|line| self.line(line, &mut within)).collect()
    }

    fn line(&self, line: &str, within: &mut Within) -> String {
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim();
        match within {
            Within::Pem => {
                if trimmed.starts_with("-----END") {
                    *within = Within::Nothing;
                }
                return REDACTED.to_owned();
            }
            Within::Quotes(quotes) => {
                if line.contains(*quotes) {
                    *within = Within::Nothing;
                }
                return REDACTED.to_owned();
            }
            Within::Block { indent: of } => {
                let is_of_it = indent > *of || (indent == *of && (trimmed.starts_with("- ") || trimmed == "-"));
                if trimmed.is_empty() {
                    return String::new();
                }
                if is_of_it {
                    return format!("{}{REDACTED}", &line[..indent]);
                }
                *within = Within::Nothing;
            }
            Within::Nothing => {}
        }
        if line.contains("-----BEGIN") && line.contains("KEY") && !line.contains("PUBLIC KEY") {
            // All of it on one line, with `\n` in it, in JSON.
            if !line.contains("-----END") {
                *within = Within::Pem;
            }
            return format!("{}{REDACTED}", &line[..indent]);
        }
        let line = match value_of_secret(line) {
            Some(at) => {
                let value = line[at..].trim();
                let quotes = ["\"\"\"", "'''"].into_iter().find(|quotes| value.matches(quotes).count() == 1);
                if let Some(quotes) = quotes {
                    *within = Within::Quotes(quotes);
                } else if value.is_empty() || matches!(value.as_bytes()[0], b'|' | b'>' | b'[' | b'{' | b'(') {
                    *within = Within::Block { indent };
                }
                if value.is_empty() { line.to_owned() } else { format!("{}{REDACTED}", &line[..at]) }
            }
            None => line.to_owned(),
        };
        self.shapes(line)
    }

    /// Known values, passwords in URLs, tokens.
    fn shapes(&self, mut line: String) -> String {
        for known in &self.known {
            if line.contains(known.as_str()) {
                line = line.replace(known.as_str(), REDACTED);
            }
        }
        let line = without_url_passwords(&line);
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '=' | ':' | '~');
        let mut clean = String::with_capacity(line.len());
        let mut rest = line.as_str();
        while let Some(start) = rest.find(is_part) {
            clean.push_str(&rest[..start]);
            rest = &rest[start..];
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            clean.push_str(&without_tokens(&rest[..end]));
            rest = &rest[end..];
        }
        clean.push_str(rest);
        clean
    }
}

/// A run of characters that tokens consist of, without the tokens in it.
fn without_tokens(run: &str) -> String {
    let found = PREFIXES.iter().filter_map(|(prefix, least)| {
        let mut at = run.match_indices(prefix).map(|(at, _)| at);
        at.find(|&at| {
            let is_begin = !run[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            is_begin && run.len() - at - prefix.len() >= *least
        })
    });
    if let Some(at) = found.min() {
        return format!("{}{REDACTED}", &run[..at]);
    }
    // Telegram's: the bot's number, a colon, 35 characters.
    if let Some((number, rest)) = run.split_once(':')
        && number.len() >= 8
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && rest.len() >= 30
    {
        return REDACTED.to_owned();
    }
    let parts: Vec<&str> = run.split_inclusive(['.', ':', '=', '~']).collect();
    parts.into_iter().map(|part| if is_random(part) { REDACTED } else { part }).collect()
}

fn is_random(part: &str) -> bool {
    let part = part.trim_end_matches(['.', ':', '=', '~']);
    let has = |is: fn(&u8) -> bool| part.bytes().any(|byte| is(&byte));
    let is_mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    let is_hex = part.bytes().all(|byte| byte.is_ascii_hexdigit()) && has(u8::is_ascii_digit);
    (part.len() >= MIXED_MIN && is_mixed) || (part.len() >= HEX_MIN && is_hex)
}

/// `scheme://user:password@host` without the password.
fn without_url_passwords(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let after = at + "://".len();
        let end = rest[after..].find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\''));
        let end = end.map_or(rest.len(), |end| after + end);
        let authority = &rest[after..end];
        clean.push_str(&rest[..after]);
        match authority.rfind('@').and_then(|at| Some((authority[..at].split_once(':')?.0, &authority[at..]))) {
            Some((user, host)) => clean.push_str(&format!("{user}:{REDACTED}{host}")),
            None => clean.push_str(authority),
        }
        rest = &rest[end..];
    }
    clean.push_str(rest);
    clean
}

/// Where, in a line, the value begins that belongs to a key of a secret.
fn value_of_secret(line: &str) -> Option<usize> {
    let is_of_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut from = 0;
    while let Some(start) = line[from..].find(is_of_key).map(|at| from + at) {
        let end = line[start..].find(|c| !is_of_key(c)).map_or(line.len(), |at| start + at);
        from = end;
        let Some(kind) = kind_of_key(&line[start..end]) else { continue };
        // `key = v`, `"key": v`, `key v`, `--key=v`, `key=>v`
        let rest = line[end..].trim_start_matches(['"', '\'', ']']);
        let value = rest.trim_start_matches([' ', '\t', '=', ':', '>']);
        if value.len() == rest.len() {
            continue;
        }
        let at = line.len() - value.len();
        if !is_plain(value, kind) {
            return Some(at);
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    /// `max_tokens = 4096` is no secret.
    Countable,
}

fn kind_of_key(key: &str) -> Option<Kind> {
    let mut words = String::with_capacity(key.len() + 4);
    let mut was_lower = false;
    for c in key.chars() {
        // `apiKey`
        if c.is_uppercase() && was_lower {
            words.push(' ');
        }
        was_lower = c.is_lowercase();
        words.push(if c.is_alphanumeric() { c.to_ascii_lowercase() } else { ' ' });
    }
    words.split_whitespace().find_map(|word| {
        let is_secret = WORDS.contains(&word) || IN_WORDS.iter().any(|part| word.contains(part));
        let is_countable = word.contains("token") || word.starts_with("key");
        is_secret.then_some(if is_countable { Kind::Countable } else { Kind::Password })
    })
}

/// Whether the value cannot be a secret: a word that switches something, or, for what can be counted, a number.
fn is_plain(value: &str, kind: Kind) -> bool {
    let value = value.trim_matches([' ', '\t', '"', '\'', ',', ';', '}']);
    let is_switch =
        matches!(value.to_ascii_lowercase().as_str(), "true" | "false" | "on" | "off" | "yes" | "no" | "null");
    let is_number = !value.is_empty() && value.len() <= 7 && value.bytes().all(|byte| byte.is_ascii_digit());
    is_switch || (kind == Kind::Countable && is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        Redactor::default().lines(text.split('\n')).join("\n")
    }

    #[test]
    fn values_of_keys_that_say_so_go() {
        for (line, wanted) in [
            ("password = \"hunter2\"", "password = [redacted]"),
            ("  DB_PASSWORD=hunter2", "  DB_PASSWORD=[redacted]"),
            ("export SLACK_TOKEN='abc'", "export SLACK_TOKEN=[redacted]"),
            ("{\"apiKey\": \"abc\", \"port\": 80}", "{\"apiKey\": [redacted]"),
            ("{\"port\": 80, \"clientSecret\": \"a\"}", "{\"port\": 80, \"clientSecret\": [redacted]"),
            ("requirepass foo", "requirepass [redacted]"),
            ("proxy_set_header Authorization \"Basic Zm9v\";", "proxy_set_header Authorization [redacted]"),
            ("smtp.pass: x", "smtp.pass: [redacted]"),
            ("secret_key_base => abc", "secret_key_base => [redacted]"),
            ("pin = 1234", "pin = [redacted]"),
            ("command --token abc", "command --token [redacted]"),
        ] {
            assert_eq!(redacted(line), wanted);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for line in [
            "max_tokens = 4096",
            "port: 8080",
            "keepalive_timeout 65;",
            "keyboard = \"us\"",
            "use_token = true",
            "url = \"https://example.org/a/b?c=d\"",
            "model = \"claude-sonnet-4-5-20250929\"",
            "path = /usr/lib/python3.13/site-packages",
            "image: registry.example.org/bot:v1.2.3",
            "# the tokenizer, as it was",
            "required = [\"password\", \"user\"]",
            "größe = \"ünder\"",
            "",
        ] {
            assert_eq!(redacted(line), line);
        }
    }

    #[test]
    fn tokens_are_known_by_their_shape_wherever_they_stand() {
        for token in [
            concat!("sk-", "ant-api03-abcdefghijklmnop"),
            concat!("ghp_", "abcdefghijklmnopqrstuvwxyz0123456789"),
            concat!("AKIA", "IOSFODNN7EXAMPLE"),
            concat!("eyJ", "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"),
            concat!("123456789", ":AAabcdefghijklmnopqrstuvwxyz_012345"),
            "0123456789abcdef0123456789abcdef",
            "aB3dE5gH7jK9mN1pQ3sT",
            "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLE1",
        ] {
            for line in [format!("x = \"{token}\""), format!("a b {token}"), format!("--header=X:{token},b")] {
                let clean = redacted(&line);
                assert!(!clean.contains(token) && clean.contains(REDACTED), "{line}: {clean}");
            }
        }
        assert_eq!(redacted("db = postgres://bot:pa:s@s@db/x"), "db = postgres://bot:[redacted]@db/x");
        assert_eq!(redacted("a http://u@h b http://u:p@h"), "a http://u@h b http://u:[redacted]@h");
    }

    #[test]
    fn secrets_of_many_lines_go_as_a_whole() {
        let pem = "a: 1\n-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----\nb: 2";
        assert_eq!(redacted(pem), format!("a: 1\n{}\nb: 2", [REDACTED; 3].join("\n")));
        let yaml = "password: |\n  one\n\n  two\nport: 1\ntokens:\n- a\n- b\nport: 2";
        let wanted =
            "password: [redacted]\n  [redacted]\n\n  [redacted]\nport: 1\ntokens:\n[redacted]\n[redacted]\nport: 2";
        assert_eq!(redacted(yaml), wanted);
        let toml = "secret = \"\"\"\none\ntwo\"\"\"\nport = 1";
        assert_eq!(redacted(toml), "secret = [redacted]\n[redacted]\n[redacted]\nport = 1");
        let json = "\"keys\": [\n  \"a\",\n  \"b\"\n],\n\"port\": 1";
        assert_eq!(redacted(json), "\"keys\": [redacted]\n  [redacted]\n  [redacted]\n],\n\"port\": 1");
        assert_eq!(redacted("-----BEGIN PUBLIC KEY-----\nabc"), "-----BEGIN PUBLIC KEY-----\nabc");
    }

    #[test]
    fn known_values_go_longest_first() {
        let redactor = Redactor::new(["tiger1", "tiger123", "short"].map(String::from));
        assert_eq!(redactor.lines(["a tiger123b tiger1 short"]), ["a [redacted]b [redacted] short"]);
    }
}
