//! Tests that this machine cannot run: found by the name of their module, left out by filter, counted.

use crate::host;
use crate::report::LeftOut;
use crate::tools::{Outcome, find_program, output_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// What a test may need, told by a module of this name around it.
struct Need {
    module: &'static str,
    why_not: &'static str,
    is_met: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need { module: "needs_root", why_not: "this user is not root", is_met: host::is_root },
    Need { module: "needs_cgroup2", why_not: "no cgroup v2 that this user may write", is_met: host::has_cgroup2 },
    Need {
        module: "needs_controllers",
        why_not: "no cgroup v2 with memory, pids and cpu that can be handed down from here",
        is_met: host::has_controllers,
    },
    Need {
        module: "needs_memory_v1",
        why_not: "no memory controller of cgroup v1, or not the first pid namespace, whose pids the kernel's log has",
        is_met: host::has_memory_v1,
    },
    Need {
        module: "needs_loop",
        why_not: "no loop device that this user may use, or no mkfs.ext4 or fsfreeze",
        is_met: host::has_loop,
    },
    Need { module: "needs_nginx", why_not: "no nginx", is_met: || find_program("nginx").is_some() },
    Need { module: "needs_redis", why_not: "no redis-server", is_met: || find_program("redis-server").is_some() },
    Need { module: "needs_python", why_not: "no python3", is_met: || find_program("python3").is_some() },
    Need { module: "needs_iproute2", why_not: "no ip (iproute2)", is_met: || find_program("ip").is_some() },
    Need { module: "needs_strace", why_not: "no strace", is_met: || find_program("strace").is_some() },
    Need { module: "needs_node", why_not: "no node", is_met: || find_program("node").is_some() },
    Need { module: "needs_nix", why_not: "no nix-env (nix-bin)", is_met: || find_program("nix-env").is_some() },
    Need {
        module: "needs_node_exporter",
        why_not: "no prometheus-node-exporter",
        is_met: || find_program("prometheus-node-exporter").is_some(),
    },
    Need {
        module: "needs_postgres",
        why_not: "no PostgreSQL",
        is_met: || find_program("pg_ctlcluster").is_some() && find_program("psql").is_some(),
    },
    Need {
        module: "needs_gnu_tar",
        why_not: "no GNU tar",
        is_met: || output_of(Command::new("tar").arg("--version")).is_ok_and(|text| text.contains("GNU tar")),
    },
    Need { module: "needs_zstd", why_not: "no zstd", is_met: || find_program("zstd").is_some() },
    Need { module: "needs_cc", why_not: "no C compiler", is_met: || find_program("cc").is_some() },
    Need { module: "needs_jq", why_not: "no jq", is_met: || find_program("jq").is_some() },
    Need {
        module: "needs_systemd_notify",
        why_not: "no systemd-notify",
        is_met: || find_program("systemd-notify").is_some(),
    },
    Need {
        module: "needs_systemd",
        why_not: "no systemd, or this user may not make it process 1 of new namespaces",
        is_met: host::can_boot_systemd,
    },
    // Met by the caller: they take downloads.
    Need { module: "needs_sdnotify", why_not: "no Python with PyPI's sdnotify could be made", is_met: || true },
    Need {
        module: "needs_services",
        why_not: "no Python with PyPI's grpcio, prometheus-client and celery could be made",
        is_met: || true,
    },
    Need { module: "needs_schemathesis", why_not: "no Python with PyPI's schemathesis could be made", is_met: || true },
];

/// The tests to run, and the ones that are left out.
pub struct Selection {
    /// For `cargo nextest run --filterset`; `None` means all.
    pub filterset: Option<String>,
    /// One entry for each module of needs that is not met and has tests.
    pub left_out: Vec<LeftOut>,
}

/// Chooses from `list`, the JSON of `cargo nextest list`; the needs in `missing` are not met.
pub fn select(list: &str, missing: &[&str]) -> Outcome<Selection> {
    let list: Value = serde_json::from_str(list).map_err(|e| format!("cannot read the list of tests: {e}"))?;
    select_with(&list, |need| (need.is_met)() && !missing.contains(&need.module))
}

fn select_with(list: &Value, is_met: impl Fn(&Need) -> bool) -> Outcome<Selection> {
    let suites = list["rust-suites"].as_object().ok_or("the list of tests has no suites")?;
    let tests = suites.values().filter_map(|suite| suite["testcases"].as_object()).flat_map(|tests| tests.keys());
    // A test in modules of two needs counts for the first one that is not met.
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for test in tests {
        let mut unmet = None;
        for module in test.split("::").filter(|part| part.starts_with("needs_")) {
            let Some(need) = NEEDS.iter().find(|need| need.module == module) else {
                return Err(format!("a test needs `{module}`, of which xtask/src/filter.rs knows nothing"));
            };
            unmet = unmet.or_else(|| (!is_met(need)).then_some(need.module));
        }
        if let Some(module) = unmet {
            *counts.entry(module).or_default() += 1;
        }
    }
    let unmet: Vec<&Need> = NEEDS.iter().filter(|need| counts.contains_key(need.module)).collect();
    let conditions: Vec<String> = unmet.iter().map(|n| format!("not test(/(^|::){}::/)", n.module)).collect();
    let left_out = unmet
        .iter()
        .map(|need| LeftOut {
            what: format!("tests in `{}`", need.module),
            count: counts[need.module],
            why: need.why_not.to_owned(),
        })
        .collect();
    Ok(Selection { filterset: (!conditions.is_empty()).then(|| conditions.join(" and ")), left_out })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(tests: &[&str]) -> Value {
        let cases: serde_json::Map<_, _> = tests.iter().map(|test| ((*test).to_owned(), json!({}))).collect();
        json!({"rust-suites": {"hale": {"testcases": cases}}})
    }

    #[test]
    fn unmet_needs_are_filtered_and_counted() {
        let list = list(&["needs_root::a", "x::needs_root::b", "needs_jq::c", "d"]);
        let selection = select_with(&list, |need| need.module != "needs_root").unwrap();
        assert_eq!(selection.filterset.unwrap(), "not test(/(^|::)needs_root::/)");
        assert_eq!(selection.left_out.iter().map(|l| l.count).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_test_with_two_needs_is_counted_once() {
        let list = list(&["needs_root::needs_jq::a", "needs_root::b"]);
        let selection = select_with(&list, |_| false).unwrap();
        assert_eq!(selection.left_out.iter().map(|l| l.count).collect::<Vec<_>>(), [2]);
        assert_eq!(selection.filterset.unwrap(), "not test(/(^|::)needs_root::/)");
    }

    #[test]
    fn with_all_needs_met_nothing_is_filtered() {
        let selection = select_with(&list(&["needs_root::a", "d"]), |_| true).unwrap();
        assert!(selection.filterset.is_none() && selection.left_out.is_empty());
    }

    #[test]
    fn an_unknown_need_is_an_error() {
        assert!(select_with(&list(&["needs_luck::a"]), |_| true).is_err());
    }
}
