//! The crates of the workspace, what each may depend on, and that all follow the workspace's lints.

use crate::tools::Outcome;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Each crate of the workspace, and the ones of the workspace that it may depend on: ARCHITECTURE.md, the map.
const ALLOWED: &[(&str, &[&str])] = &[
    ("hale-core", &[]),
    ("hale-ledger", &[]),
    ("hale-config", &["hale-core"]),
    ("hale-daemon", &["hale-core", "hale-ledger", "hale-config"]),
    ("hale-sim", &["hale-core", "hale-ledger", "hale-config"]),
    ("hale", &["hale-core", "hale-ledger", "hale-config", "hale-daemon"]),
    ("hale-bench", &[]),
    ("hale-fuzz", &["hale-core", "hale-ledger", "hale-config", "hale-daemon"]),
    ("xtask", &[]),
];

/// The only crates that may have an asynchronous runtime anywhere below them.
const WITH_TOKIO: &[&str] = &["hale-daemon", "hale", "hale-fuzz"];

/// Where each direct dependency has its line.
const DEPENDENCIES_PAGE: &str = "docs/dependencies.md";

/// Checks the edges between crates, who has tokio, the lints and the page of dependencies.
pub fn check(root: &Path, metadata: &Value) -> Outcome {
    let members = members(metadata);
    let page = root.join(DEPENDENCIES_PAGE);
    let page = std::fs::read_to_string(&page).map_err(|e| format!("cannot read {DEPENDENCIES_PAGE}: {e}"))?;
    let mut findings = edge_findings(&members);
    findings.extend(tokio_findings(metadata));
    findings.extend(page_findings(&page, &members, &licences(metadata)));
    for member in &members {
        let manifest = std::fs::read_to_string(member.manifest).map_err(|e| format!("{}: {e}", member.manifest))?;
        if !inherits_lints(&manifest) {
            findings.push(format!("{}: `[lints] workspace = true` is missing", member.manifest));
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
}

/// A crate of the workspace as its manifest describes it.
struct Member<'a> {
    name: &'a str,
    manifest: &'a str,
    /// All direct dependencies of any kind: name and required version.
    dependencies: BTreeMap<&'a str, &'a str>,
}

/// The package's direct dependencies and the versions it asks for, as written in the manifest.
fn dependencies(package: &Value) -> BTreeMap<&str, &str> {
    let list = package["dependencies"].as_array().into_iter().flatten();
    list.filter_map(|d| Some((d["name"].as_str()?, d["req"].as_str()?.trim_start_matches('^')))).collect()
}

/// The licence of each package, by name.
fn licences(metadata: &Value) -> BTreeMap<&str, &str> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter_map(|package| Some((package["name"].as_str()?, package["license"].as_str()?))).collect()
}

fn members(metadata: &Value) -> Vec<Member<'_>> {
    let ids: BTreeSet<&str> =
        metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|package| package["id"].as_str().is_some_and(|id| ids.contains(id)))
        .map(|package| Member {
            name: package["name"].as_str().unwrap_or_default(),
            manifest: package["manifest_path"].as_str().unwrap_or_default(),
            dependencies: dependencies(package),
        })
        .collect()
}

fn edge_findings(members: &[Member<'_>]) -> Vec<String> {
    let names: BTreeSet<&str> = members.iter().map(|member| member.name).collect();
    let mut findings = Vec::new();
    for Member { name, dependencies, .. } in members {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            findings.push(format!("{name} is not in the list of crates: xtask/src/edges.rs"));
            continue;
        };
        let wrong = dependencies.keys().filter(|d| names.contains(**d) && !allowed.contains(*d));
        findings.extend(wrong.map(|d| format!("{name} must not depend on {d}")));
    }
    let gone = ALLOWED.iter().filter(|(name, _)| !names.contains(name));
    findings
        .extend(gone.map(|(name, _)| format!("{name} is in the list of crates of xtask/src/edges.rs, but not there")));
    findings
}

/// The crates that have tokio below them, by any path, though they must not.
fn tokio_findings(metadata: &Value) -> Vec<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let graph: BTreeMap<&str, Vec<&str>> = nodes
        .filter_map(|node| {
            let dependencies = node["dependencies"].as_array()?.iter().filter_map(Value::as_str).collect();
            Some((node["id"].as_str()?, dependencies))
        })
        .collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let names: BTreeMap<&str, &str> =
        packages.filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?))).collect();
    let workspace = metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str);
    workspace
        .filter(|member| !names.get(member).is_some_and(|name| WITH_TOKIO.contains(name)))
        .filter(|member| below(&graph, member).iter().any(|id| names.get(id) == Some(&"tokio")))
        .map(|member| format!("{} must not have tokio below it", names.get(member).unwrap_or(&member)))
        .collect()
}

fn below<'a>(graph: &BTreeMap<&'a str, Vec<&'a str>>, start: &'a str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(graph.get(id).into_iter().flatten());
        }
    }
    seen
}

fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.find(|line| !line.is_empty()) == Some("workspace = true")
}

/// Each direct dependency from a registry has a line `| name | why | licence | version |` on the page, and each
/// line its dependency.
fn page_findings(page: &str, members: &[Member<'_>], licences: &BTreeMap<&str, &str>) -> Vec<String> {
    let own: BTreeSet<&str> = members.iter().map(|member| member.name).collect();
    let used: BTreeMap<&str, &str> = members.iter().flat_map(|m| &m.dependencies).map(|(d, v)| (*d, *v)).collect();
    let rows: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| Some((line.strip_prefix("| `")?.split('`').next()?, line))).collect();
    let mut findings = Vec::new();
    for (name, version) in used.iter().filter(|(name, _)| !own.contains(*name)) {
        let facts = format!("| {} | {version} |", licences.get(name).unwrap_or(&"?"));
        if !rows.get(name).is_some_and(|row| row.ends_with(&facts)) {
            findings.push(format!("{DEPENDENCIES_PAGE}: needs the line \"| `{name}` | why {facts}\""));
        }
    }
    let gone = rows.keys().filter(|name| !used.contains_key(*name));
    findings.extend(gone.map(|name| format!("{DEPENDENCIES_PAGE}: {name} is not used any more")));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn member<'a>(name: &'a str, dependencies: &[&'a str]) -> Member<'a> {
        Member { name, manifest: "", dependencies: dependencies.iter().map(|name| (*name, "1.0")).collect() }
    }

    fn whole_workspace<'a>() -> Vec<Member<'a>> {
        ALLOWED.iter().map(|(name, allowed)| member(name, allowed)).collect()
    }

    #[test]
    fn the_allowed_edges_are_allowed_and_no_other() {
        assert_eq!(edge_findings(&whole_workspace()), Vec::<String>::new());
        let mut members = whole_workspace();
        members[0].dependencies.insert("hale-ledger", "*");
        members.push(member("hale-extra", &[]));
        assert_eq!(edge_findings(&members).len(), 2);
        members.remove(1);
        assert_eq!(edge_findings(&members).len(), 2, "the edge has no target now, but a listed crate is gone");
    }

    #[test]
    fn tokio_is_found_at_any_depth() {
        let metadata = json!({
            "workspace_members": ["c", "d"],
            "packages": [{"id": "c", "name": "hale-core"}, {"id": "d", "name": "hale-daemon"},
                         {"id": "x", "name": "x"}, {"id": "t", "name": "tokio"}],
            "resolve": {"nodes": [{"id": "c", "dependencies": ["x"]}, {"id": "d", "dependencies": ["t"]},
                                  {"id": "x", "dependencies": ["t"]}, {"id": "t", "dependencies": []}]},
        });
        assert_eq!(tokio_findings(&metadata), ["hale-core must not have tokio below it"]);
    }

    #[test]
    fn lints_must_be_inherited() {
        assert!(inherits_lints("[package]\n[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[package]\nname = \"x\"\n"));
        assert!(!inherits_lints("[lints]\nrust.missing_docs = \"allow\"\n"));
    }

    #[test]
    fn the_page_has_a_line_for_each_dependency_and_no_other() {
        let members = [member("hale", &["clap", "hale-core"]), member("hale-core", &["serde"])];
        let licences = BTreeMap::from([("clap", "MIT"), ("serde", "Apache-2.0")]);
        let check = |page: &str| page_findings(page, &members, &licences).len();
        assert_eq!(check("| `clap` | x | MIT | 1.0 |\n| `serde` | y | Apache-2.0 | 1.0 |"), 0);
        assert_eq!(check("| `clap` | x | MIT | 1.1 |\n| `serde` | y | MIT | 1.0 |"), 2);
        assert_eq!(check("| `clap` | x | MIT | 1.0 |\n| `nix` | y | MIT | 1.0 |"), 2);
    }
}
