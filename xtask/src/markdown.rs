//! Links in Markdown files lead to files that are there.

use crate::tools::Outcome;
use std::path::Path;

/// Checks the links of all Markdown `files` of the repository to other files of it.
pub fn check_links(root: &Path, files: &[String]) -> Outcome {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(".md")) {
        let text = std::fs::read_to_string(root.join(file)).map_err(|e| format!("cannot read {file}: {e}"))?;
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        for (line, target) in local_links(&text) {
            if !root.join(folder).join(target).exists() {
                findings.push(format!("{file}:{line}: the link to {target} leads nowhere"));
            }
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
}

/// The targets of `[text](target)` that name a file, without their `#anchor`, each with its line number.
/// What stands in code is no link.
fn local_links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    let mut in_block = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        // Every second part between backticks is code.
        for prose in line.split('`').step_by(2) {
            let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
            let local = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
            let files = local.map(|target| target.split('#').next().unwrap_or(target)).filter(|file| !file.is_empty());
            links.extend(files.map(|file| (at + 1, file)));
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_files_count() {
        let text =
            "[a](docs/a.md#part), [b](https://b.example) and `[c](c.md)`\n```\n[d](d.md)\n```\n[e](#e) [f](f.md)";
        assert_eq!(local_links(text), [(1, "docs/a.md"), (5, "f.md")]);
    }
}
