//! Rules over the Cargo.toml files.

use toml::{Table, Value};

/// The crates of the house, each with those below it. Dependencies point down only.
const BELOW: &[(&str, &[&str])] = &[
    ("discus-wire", &[]),
    ("discus-image", &[]),
    ("discus-bpf", &[]),
    ("discus-sender", &["discus-wire", "discus-image", "discus-bpf"]),
    ("discus-receiver", &["discus-wire", "discus-image", "discus-bpf"]),
    ("discus-bench", &["discus-wire", "discus-image", "discus-bpf", "discus-sender", "discus-receiver"]),
];

/// Dependencies of `members` (package name, manifest text) on crates of the house that are not below them, and crates without a place.
pub(crate) fn wrong_dependencies(members: &[(String, String)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, text) in members {
        let Some((_, below)) = BELOW.iter().find(|(known, _)| known == name) else {
            wrong.push(format!("{name} has no place in the house: decide what it may depend on"));
            continue;
        };
        let manifest: Table = text.parse().unwrap();
        for dependency in dependencies(&manifest) {
            let inside = BELOW.iter().any(|(known, _)| *known == dependency);
            if inside && !below.contains(&dependency.as_str()) {
                wrong.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    wrong
}

/// Package names of everything that `manifest` depends on, in whichever section.
fn dependencies(manifest: &Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten().filter_map(|(_, target)| target.as_table());
    let mut found = Vec::new();
    for table in std::iter::once(manifest).chain(targets) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                let renamed = value.get("package").and_then(Value::as_str);
                found.push(package_name(renamed.unwrap_or(key)));
            }
        }
    }
    found
}

/// The package behind a dependency's key: the workspace names its own crates without their prefix.
fn package_name(key: &str) -> String {
    let prefixed = format!("discus-{key}");
    if BELOW.iter().any(|(known, _)| *known == prefixed) { prefixed } else { key.to_owned() }
}

/// Members that do not take the workspace's lints.
pub(crate) fn without_shared_lints(members: &[(String, String)]) -> Vec<String> {
    let takes = |text: &str| {
        let manifest: Table = text.parse().unwrap();
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool) == Some(true)
    };
    members.iter().filter(|(_, text)| !takes(text)).map(|(name, _)| format!("{name} lacks `[lints] workspace = true`")).collect()
}

/// Lints that the design asks for and that `workspace`, the root manifest, does not set.
pub(crate) fn weakened_workspace_lints(workspace: &str) -> Vec<String> {
    let manifest: Table = workspace.parse().unwrap();
    let lints = manifest.get("workspace").and_then(|workspace| workspace.get("lints"));
    let level = |tool: &str, lint: &str| lints.and_then(|lints| lints.get(tool)?.get(lint)?.as_str()).unwrap_or("allow").to_owned();
    let mut weakened = Vec::new();
    if !["deny", "forbid"].contains(&level("rust", "unsafe_code").as_str()) {
        weakened.push("unsafe_code is not denied".to_owned());
    }
    if level("clippy", "undocumented_unsafe_blocks") == "allow" {
        weakened.push("undocumented_unsafe_blocks is allowed".to_owned());
    }
    weakened
}
