//! Configurations without mistakes: what they mean, and that their hash follows the meaning only.

use hale_config::{HostDefaults, Source, Validated, parse, schema};
use hale_core::policy::change::Change;
use hale_core::policy::{
    CheckKind, Figure, GenerationsPolicy, ListenAddress, LoopLagCheck, MemoryBound, MetricCheck, Mode, Pending,
    ProgressCheck, Ready, ResourceLimits, Rollback, Series, ServicePolicy, Signal, Source as FigureSource, StoreKind,
};
use hale_core::time::Span;
use std::path::Path;

/// Every key of this version, at its default where it has one.
const ALL_KEYS: &str = include_str!("all-keys.toml");
const TREE_CHECKS: &str = include_str!("tree-checks.toml");
const MEASURED_CHECKS: &str = include_str!("measured-checks.toml");
const GENERATIONS: &str = include_str!("generations.toml");

fn parse_files(texts: &[&str]) -> Result<Validated, String> {
    let defaults = HostDefaults {
        state_dir: "/var/lib/hale".into(),
        runtime_dir: "/run/hale".into(),
        log_dir: "/var/log/hale".into(),
    };
    let name = |index: usize| format!("{index}.toml");
    let files: Vec<_> =
        texts.iter().enumerate().map(|(index, text)| Source { name: name(index), text: (*text).into() }).collect();
    parse(&files, &defaults, "/etc/hale")
        .map_err(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn good(text: &str) -> Validated {
    parse_files(&[text]).unwrap_or_else(|all| panic!("{all}\nin {text}"))
}

fn bot(text: &str) -> ServicePolicy {
    service(text, "bot")
}

fn service(text: &str, name: &str) -> ServicePolicy {
    let validated = good(text);
    let name = name.try_into().expect("it is a name");
    ServicePolicy::clone(&validated.policy.services[&name])
}

fn hash(text: &str) -> String {
    good(text).hash.0.to_string()
}

const SHORT: &str = "[service.bot]\ncommand = [\"bot\"]\n";

#[test]
fn a_short_file_has_all_defaults() {
    let validated = good(SHORT);
    assert_eq!(validated.warnings, []);
    let host = &validated.policy.host;
    assert_eq!((&*host.state_dir, &*host.runtime_dir, &*host.log_dir), ("/var/lib/hale", "/run/hale", "/var/log/hale"));
    assert_eq!((host.mode, host.restarts_in_flight), (Mode::Heal, 16));
    let bot = bot(SHORT);
    assert_eq!(bot.directory.as_deref(), Some("/"));
    assert_eq!((bot.user, bot.open_files_limit, bot.limits), (None, None, ResourceLimits::default()));
    assert_eq!((bot.start.ready, bot.start.within), (Ready::Running, Span::from_secs(30)));
    assert_eq!((bot.stop.signal, bot.stop.grace), (Signal::TERM, Span::from_secs(10)));
    assert_eq!((bot.restart.first_delay, bot.restart.delay), (Span::ZERO, Span::from_ms(100)));
    assert_eq!((bot.restart.max_delay, bot.restart.healthy_after), (Span::from_secs(30), Span::from_secs(60)));
    assert_eq!(bot.restart.crash_loop.map(|limit| (limit.failures, limit.within)), Some((5, Span::from_secs(60))));
    assert_eq!((bot.restart.held_delay, bot.restart.on_success), (Span::from_secs(300), true));
    assert_eq!((bot.log.max_size_bytes, bot.log.keep, bot.log.rate_bytes), (64 << 20, 8, 16 << 20));
}

#[test]
fn checks_have_defaults_and_names() {
    let checks = bot(ALL_KEYS).checks;
    let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["http", "socket", "exec", "heartbeat", "tcp"]);
    for check in &checks {
        assert_eq!((check.every, check.timeout, check.successes), (Span::from_secs(2), Span::from_secs(1), 1));
        let heartbeat = matches!(check.kind, CheckKind::Heartbeat { .. });
        assert_eq!(check.failures, if heartbeat { 1 } else { 3 }, "a missed promise counts at once");
    }
    let tcp = "\n[[service.bot.check]]\nkind = \"tcp\"\naddress = \"127.0.0.1:1\"\n";
    let named = |text: &str| bot(text).checks.iter().map(|check| check.name.to_string()).collect::<Vec<_>>();
    assert_eq!(named(&format!("{SHORT}{tcp}{tcp}{tcp}")), ["tcp", "tcp-2", "tcp-3"]);
    assert_eq!(named(&format!("{SHORT}{tcp}{tcp}name = \"tcp\"\n")), ["tcp-2", "tcp"], "given names come first");
}

#[test]
fn a_service_with_checks_is_ready_when_they_pass() {
    let check = "\n[[service.bot.check]]\nkind = \"tcp\"\naddress = \"127.0.0.1:1\"\n";
    assert_eq!(bot(&format!("{SHORT}{check}")).start.ready, Ready::Check);
    assert_eq!(bot(&format!("{SHORT}start.ready = \"running\"\n{check}")).start.ready, Ready::Running);
}

#[test]
fn paths_become_absolute() {
    let host = |keys: &str| good(&format!("[host]\n{keys}\n{SHORT}")).policy.host;
    assert_eq!(host("state_dir = \"/srv/hale/\"").log_dir, "/srv/hale/log");
    let relative = host("state_dir = \"./state\"\nruntime_dir = \"run\"");
    assert_eq!((&*relative.state_dir, &*relative.log_dir), ("/etc/hale/state", "/etc/hale/state/log"));
    assert_eq!(relative.runtime_dir, "/etc/hale/run");
    assert_eq!(bot(&format!("{SHORT}directory = \".\"\n")).directory.as_deref(), Some("/etc/hale"));
    assert_eq!(bot(&format!("{SHORT}environment_files = [\"env\"]\n")).environment_files, ["/etc/hale/env"]);
}

#[test]
fn a_crash_loop_can_be_switched_off_or_changed_in_part() {
    let limit = |value: &str| bot(&format!("{SHORT}restart.crash_loop = {value}\n")).restart.crash_loop;
    assert_eq!(limit("false"), None);
    assert_eq!(limit("{ failures = 2 }").map(|it| (it.failures, it.within)), Some((2, Span::from_secs(60))));
}

#[test]
fn values_of_json_keep_their_type() {
    let json = "json = { '/a' = \"ok\", '/b' = 7, '/c' = 0.5, '/d' = [true, { x = \"\" }] }";
    let url = "url = \"http://127.0.0.1/\"";
    let policy = bot(&format!("{SHORT}\n[[service.bot.check]]\nkind = \"http\"\n{url}\n{json}\n"));
    let CheckKind::Http(http) = &policy.checks[0].kind else { panic!("not http") };
    let values: Vec<_> = http.json.values().map(String::as_str).collect();
    assert_eq!(values, ["\"ok\"", "7", "0.5", "[true,{\"x\":\"\"}]"]);
}

#[test]
fn files_are_joined_and_their_checks_counted_on() {
    let further = "[service.bot]\nuser = \"bot\"\n[[service.bot.check]]\nkind = \"tcp\"\naddress = \"127.0.0.1:2\"\n";
    let first = format!("{SHORT}[[service.bot.check]]\nkind = \"tcp\"\naddress = \"127.0.0.1:1\"\n");
    let joined = parse_files(&[&first, further]).expect("they do not contradict");
    let bot = &joined.policy.services[&"bot".try_into().expect("it is a name")];
    assert_eq!(bot.user.as_deref(), Some("bot"));
    assert_eq!(bot.checks.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), ["tcp", "tcp-2"]);
}

#[test]
fn writing_the_defaults_down_changes_nothing() {
    let check = "\n[[service.bot.check]]\nkind = \"tcp\"\naddress = \"127.0.0.1:5432\"\n";
    let written = "restart = { first_delay = \"0s\", delay = \"0.1s\", max_delay = \"30000ms\", \
                   healthy_after = \"1m\", crash_loop = { within = \"1m\", failures = 5 }, held_delay = \"5m\", \
                   on_success = true }\nstop = { signal = \"term\", grace = \"10s\" }\n\
                   log = { rate = \"16384KiB/s\", keep = 8, max_size = \"0.0625GiB\" }\nafter = []\n";
    assert_eq!(hash(&format!("{SHORT}{written}{check}")), hash(&format!("{SHORT}{check}")));
}

#[test]
fn the_hash_does_not_see_comments_order_or_files() {
    let one = "[service.a]\ncommand = [\"a\"]\nuser = \"x\"\nafter = [\"b\", \"c\"]\n\n[service.b]\ncommand = [\"b\"]\n\n[service.c]\ncommand = [\"c\"]\n";
    let other = "# a comment\n[service.c]\ncommand = ['c']\n[service.b]\ncommand = [ \"b\", ]\n[service.a]\nafter = [\"c\", \"b\"]\nuser = \"x\"\ncommand = [\"\\u0061\"]\n";
    assert_eq!(hash(one), hash(other));
    let (first, second) = one.split_at(one.find("[service.b]").expect("it has b"));
    assert_eq!(parse_files(&[first, second]).expect("both are good").hash.0.as_ref(), hash(one));
}

#[test]
fn the_order_of_status_codes_means_nothing() {
    let check = "[[service.bot.check]]\nkind = \"http\"\nurl = \"http://127.0.0.1/\"\n";
    let status = |codes: &str| hash(&format!("{SHORT}{check}status = {codes}\n"));
    assert_eq!(status("[204, 200, 204]"), status("[200, 204]"));
    assert_ne!(status("[204]"), status("[200]"));
}

#[test]
fn the_hash_sees_every_value() {
    // Each line that holds a value is changed in turn; none may leave the hash as it was.
    let mut changed = 0;
    for text in [ALL_KEYS, TREE_CHECKS, MEASURED_CHECKS, GENERATIONS] {
        let before = hash(text);
        for (number, line) in text.lines().enumerate() {
            let Some((_, other)) = line.split_once("# other: ") else { continue };
            let mut lines: Vec<&str> = text.lines().collect();
            lines[number] = other;
            assert_ne!(hash(&lines.join("\n")), before, "{other}");
            changed += 1;
        }
    }
    assert!(changed > 30, "only {changed} values have another");
}

#[test]
fn checks_of_processes_are_read() {
    let checks = bot(TREE_CHECKS).checks;
    let kinds: Vec<CheckKind> = checks.iter().map(|check| check.kind.clone()).collect();
    let tcp = |text: &str| ListenAddress::Tcp(text.parse().expect("it is an address"));
    let expected = [
        CheckKind::Memory { below: MemoryBound::OfLimit { percent: 80, limit_bytes: 512 << 20 } },
        CheckKind::Memory { below: MemoryBound::Bytes(400 << 20) },
        CheckKind::Cpu { below_percent: 150, window: Span::from_secs(60) },
        CheckKind::OpenFiles { below: 900 },
        CheckKind::Listen { address: tcp("[::]:80") },
        CheckKind::Listen { address: ListenAddress::Unix("/run/bot.sock".into()) },
    ];
    assert_eq!(kinds, expected);
    read_back(&kinds);
    assert_eq!(expected_bytes(&checks[0].kind), (512 << 20) * 4 / 5);
}

/// What the runtime journal keeps is read back.
fn read_back(kinds: &[CheckKind]) {
    for kind in kinds {
        let text = serde_json::to_string(kind).expect("it can be written");
        assert_eq!(serde_json::from_str::<CheckKind>(&text).expect("it was written so"), *kind, "{text}");
    }
}

#[test]
fn checks_of_what_a_service_measures_are_read() {
    let policy = bot(MEASURED_CHECKS);
    assert!(policy.wants_notify());
    let failures: Vec<_> = policy.checks.iter().map(|check| check.failures).collect();
    assert_eq!(failures, [3, 1, 1, 3, 3, 3, 3], "time without progress is bounded already");
    let kinds: Vec<CheckKind> = policy.checks.into_iter().map(|check| check.kind).collect();
    let hears: Vec<_> = kinds.iter().map(CheckKind::hears).collect();
    assert_eq!(hears, [false, false, true, true, false, false, false]);
    read_back(&kinds);
    let series = |text: &str| Series::read(text).expect("a series").0;
    let url = || String::from("http://127.0.0.1:9100/metrics");
    assert_eq!(
        kinds[0],
        CheckKind::Metric(MetricCheck {
            url: "https://127.0.0.1:9100/".into(),
            series: series("jobs_waiting{queue=\"mail\"}"),
            above: Some(Figure("-1".into())),
            below: Some(Figure("1000.5".into())),
            increases_within: Some(Span::from_secs(300)),
        })
    );
    let jobs = |url, above: &str| Pending { url, series: series("jobs_waiting"), above: Figure(above.into()) };
    assert_eq!(
        kinds[1],
        CheckKind::Progress(ProgressCheck {
            within: Span::from_secs(60),
            source: FigureSource::Metric { url: url(), series: series("jobs_total") },
            while_pending: Some(jobs(url(), "2")),
        })
    );
    let said = jobs("unix:/run/bot.sock:/metrics".into(), "0");
    let progress =
        ProgressCheck { within: Span::from_secs(60), source: FigureSource::Notify, while_pending: Some(said) };
    assert_eq!(kinds[2], CheckKind::Progress(progress));
    assert_eq!(kinds[3], CheckKind::LoopLag(LoopLagCheck { below: Span::from_ms(500), source: FigureSource::Notify }));
    assert_eq!(kinds[5], CheckKind::Grpc { address: "127.0.0.1:50051".into(), service: "bot.v1.Bot".into() });
    let CheckKind::Http(http) = &kinds[6] else { panic!("{:?}", kinds[6]) };
    assert_eq!(http.ca_file.as_deref(), Some("/etc/hale/ca.pem"), "from the configuration's own directory");
}

#[test]
fn a_table_of_generations_turns_them_on() {
    assert_eq!(bot(SHORT).generations, None);
    let defaults = GenerationsPolicy {
        store: StoreKind::Release,
        probation: Span::from_secs(60),
        soak: Span::from_secs(24 * 3_600),
        keep: 10,
        recent: Span::from_secs(7 * 24 * 3_600),
        rollbacks_per_day: 3,
        rollback: Rollback::Auto,
        files: vec![],
    };
    assert_eq!(bot(&format!("{SHORT}[service.bot.generations]\n")).generations, Some(defaults.clone()));
    assert_eq!(
        bot(&format!("{SHORT}generations.soak = \"1m\"\n")).generations.map(|it| it.soak),
        Some(defaults.probation)
    );
    let files = vec!["/etc/bot/bot.toml".into(), "/etc/hale/prompts/system.txt".into()];
    assert_eq!(bot(GENERATIONS).generations, Some(GenerationsPolicy { files, ..defaults }));
    assert_eq!(good(GENERATIONS).warnings, []);
}

#[test]
fn each_store_of_generations_is_read() {
    let store = |name: &str| service(GENERATIONS, name).generations.expect("it has generations").store;
    assert_eq!(store("web"), StoreKind::NixProfile { profile: "/nix/var/nix/profiles/web".into() });
    let hook = |word: &str| vec!["/usr/local/lib/db/generations".to_owned(), word.to_owned()];
    let [list, current, stage, activate, revert] = ["list", "current", "stage", "activate", "revert"].map(hook);
    assert_eq!(store("db"), StoreKind::Command { list, current, stage, activate, revert });
    for name in ["bot", "web", "db"] {
        let policy = service(GENERATIONS, name);
        let text = serde_json::to_string(&policy).expect("it can be written");
        assert_eq!(serde_json::from_str::<ServicePolicy>(&text).expect("it was written so"), policy, "{text}");
    }
    let relative = format!("{SHORT}generations = {{ store = \"nix-profile\", profile = \"profile\" }}\n");
    let profile = StoreKind::NixProfile { profile: "/etc/hale/profile".into() };
    assert_eq!(bot(&relative).generations.map(|it| it.store), Some(profile));
}

#[test]
fn a_service_with_releases_runs_in_its_release() {
    let directories = ["bot", "web", "db"].map(|name| service(GENERATIONS, name).directory);
    assert_eq!(directories.each_ref().map(Option::as_deref), [None, Some("/"), Some("/")]);
    let given = bot(&format!("{SHORT}directory = \"data\"\ngenerations = {{}}\n"));
    assert_eq!(given.directory.as_deref(), Some("/etc/hale/data"));
}

#[test]
fn a_release_that_changes_something_is_no_reason_to_warn() {
    let warnings = |keys: &str| good(&format!("[service.bot]\n{keys}\ngenerations = {{}}\n")).warnings.len();
    assert_eq!(warnings("command = [\"bot\"]\ndirectory = \"/srv\""), 1);
    for keys in [
        "command = [\"bot\"]",
        "command = [\"bin/bot\"]\ndirectory = \"/srv\"",
        "command = [\"bot\", \"/var/lib/hale/releases/bot/current/main.py\"]\ndirectory = \"/srv\"",
        "command = [\"bot\"]\ndirectory = \"/var/lib/hale/releases/bot/current\"",
        "command = [\"bot\"]\ndirectory = \"/srv\"\nenvironment = { PYTHONPATH = \"/x:/var/lib/hale/releases/bot/current\" }",
        "command = [\"bot\"]\ndirectory = \"/srv\"\nenvironment_files = [\"/var/lib/hale/releases/bot/current/env\"]",
    ] {
        assert_eq!(warnings(keys), 0, "{keys}");
    }
}

#[test]
fn only_another_store_of_generations_asks_for_another_process() {
    let old = good(GENERATIONS).policy;
    let mut changed = 0;
    for (number, line) in GENERATIONS.lines().enumerate() {
        let Some((before, other)) = line.split_once("# other: ") else { continue };
        let mut lines: Vec<&str> = GENERATIONS.lines().collect();
        lines[number] = other;
        let change = Change::between(&old, &good(&lines.join("\n")).policy);
        let of_store = ["profile", "list", "current", "stage", "activate", "revert"];
        let is_store = of_store.iter().any(|key| before.starts_with(&format!("{key} = ")));
        assert_eq!((change.anew.len(), change.kept.len()), if is_store { (1, 0) } else { (0, 1) }, "{other}");
        changed += 1;
    }
    assert_eq!(changed, 14, "every key but `store` has another value, and `rollback` has it twice");
    let turned_on = Change::between(&good(SHORT).policy, &good(&format!("{SHORT}generations = {{}}\n")).policy);
    assert_eq!(turned_on.anew.len(), 1, "it runs in its release from then on");
}

fn expected_bytes(kind: &CheckKind) -> u64 {
    let CheckKind::Memory { below } = kind else { panic!("not memory") };
    below.bytes()
}

#[test]
fn the_example_has_no_mistake() {
    let example = good(include_str!("../../../examples/hale.toml"));
    assert_eq!(example.warnings, []);
    assert_eq!(example.policy.services.len(), 3);
}

#[test]
fn the_hash_is_pinned() {
    // Decisions on record carry this hash: it may change when the policy gains a field, and for nothing else.
    assert_eq!(hash(ALL_KEYS), "154a6bb841801c0c5933da8caedf7c764341097b50fab7fdc6c3e94d5d46715e");
}

/// A configuration with every key of dependencies; what has none keeps its hash.
const WITH_DEPENDENCIES: &str = r#"
[service.bot]
command = ["bot"]
after = ["llm-api", "store"]

[dependency.llm-api.check]
kind = "http"
url = "http://127.0.0.1:1/"

[[dependency.store.check]]
kind = "tcp"
address = "127.0.0.1:2"

[[dependency.store.check]]
kind = "exec"
command = ["check"]
"#;

#[test]
fn dependencies_have_one_check_or_many() {
    let policy = good(WITH_DEPENDENCIES);
    assert_eq!(policy.warnings, []);
    let checks = |name: &str| {
        let dependency = &policy.policy.dependencies[&name.try_into().expect("it is a name")];
        dependency.checks.iter().map(|check| check.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((checks("llm-api"), checks("store")), (vec!["http".into()], vec!["tcp".into(), "exec".into()]));
    let after: Vec<_> = bot(WITH_DEPENDENCIES).after.iter().map(ToString::to_string).collect();
    assert_eq!(after, ["llm-api", "store"]);
    let one_in_a_list = WITH_DEPENDENCIES.replace("[dependency.llm-api.check]", "[[dependency.llm-api.check]]");
    assert_eq!(hash(&one_in_a_list), hash(WITH_DEPENDENCIES));
    assert_ne!(hash(&WITH_DEPENDENCIES.replace("127.0.0.1:2", "127.0.0.1:3")), hash(WITH_DEPENDENCIES));
}

#[test]
fn the_file_with_all_keys_has_all_keys() {
    let has = |key: &str| {
        let value = format!("{key} = ");
        let tables = [format!("[{key}]"), format!("[{key}."), format!(".{key}]")];
        let all = [ALL_KEYS, TREE_CHECKS, MEASURED_CHECKS, GENERATIONS, WITH_DEPENDENCIES].concat();
        let inline = |line: &str| line.contains(&format!("{{ {value}")) || line.contains(&format!(", {value}"));
        all.lines().any(|line| line.starts_with(&value) || line.contains(&format!(".{value}")) || inline(line))
            || tables.iter().any(|table| all.contains(table))
    };
    keys(&schema(), &mut |key| assert!(has(key), "{key} is missing in the files with all keys"));
}

/// Calls `each` with the name of every key in `schema`.
fn keys(schema: &serde_json::Value, each: &mut impl FnMut(&str)) {
    if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
        for (key, schema) in properties {
            each(key);
            keys(schema, each);
        }
    }
    for part in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(part) {
            keys(inner, each);
        }
    }
    for part in ["oneOf", "anyOf"] {
        for inner in schema.get(part).and_then(|list| list.as_array()).into_iter().flatten() {
            keys(inner, each);
        }
    }
}

/// Damaged files of every sort are answered, never with a panic, and with places inside of the file.
#[test]
fn damage_is_reported_and_never_panics() {
    let mut texts = vec![ALL_KEYS.to_owned()];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    for entry in std::fs::read_dir(folder).expect("the folder is part of the crate").flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "toml") {
            texts.push(std::fs::read_to_string(entry.path()).expect("it is a text"));
        }
    }
    let defaults = HostDefaults { state_dir: "/s".into(), runtime_dir: "/r".into(), log_dir: "/l".into() };
    let mut tried = 0;
    for text in &texts {
        let cuts = text.char_indices().map(|(at, _)| at).step_by(if text.len() > 2_000 { 7 } else { 3 });
        for at in cuts {
            let (head, tail) = text.split_at(at);
            let next = tail.chars().next().map_or(0, char::len_utf8);
            for damaged in [head.to_owned(), format!("{head}{}", &tail[next..]), format!("{head}\u{0}é\"{tail}")] {
                tried += 1;
                let files = [Source { name: "hale.toml".into(), text: damaged }];
                for one in parse(&files, &defaults, "/etc/hale").err().into_iter().flatten() {
                    let span = one.span.clone();
                    assert!(span.start <= span.end && span.end <= files[0].text.len(), "{one}");
                    assert!(!one.to_string().contains('\u{0}'), "{one}");
                }
            }
        }
    }
    assert!(tried > 1_000, "only {tried}");
}
