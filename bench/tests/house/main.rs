//! The rules of the house that no compiler checks, from the design's chapters on crates, unsafe code and sans-I/O machines.
//!
//! Every rule is a function over texts, applied to the tree and, so that it is known to be able to fail, to a sample that breaks it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test program: a panic is its way to fail")]

mod manifests;
mod paths;
mod sources;
mod tree;

use tree::Tree;

/// Asserts that a rule found nothing, listing what it found.
fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn crates_depend_downwards_only() {
    assert_none(manifests::wrong_dependencies(&Tree::of_the_project().members()));
}

#[test]
fn an_upward_dependency_is_found_wherever_it_is_declared() {
    for section in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
        let member = (String::from("discus-wire"), format!("[package]\nname='discus-wire'\n[{section}]\nimage.workspace = true\n"));
        assert_eq!(manifests::wrong_dependencies(&[member]).len(), 1, "{section}");
    }
    let renamed = (String::from("discus-bpf"), String::from("[dependencies]\nother = { package = 'discus-wire', path = '../wire' }\n"));
    assert_eq!(manifests::wrong_dependencies(&[renamed]).len(), 1, "renamed");
    let stranger = (String::from("discus-new"), String::new());
    assert_eq!(manifests::wrong_dependencies(&[stranger]).len(), 1, "a crate whose place nobody has decided");
}

#[test]
fn every_crate_keeps_the_shared_lints_and_they_deny_unsafe_code() {
    let tree = Tree::of_the_project();
    assert_none(manifests::without_shared_lints(&tree.members()));
    assert_none(manifests::weakened_workspace_lints(&tree.read("Cargo.toml")));
}

#[test]
fn a_crate_without_the_shared_lints_is_found() {
    let loose = (String::from("discus-wire"), String::from("[package]\nname='discus-wire'\n"));
    assert_eq!(manifests::without_shared_lints(&[loose]).len(), 1);
    assert_eq!(manifests::weakened_workspace_lints("[workspace.lints.rust]\nunsafe_code = 'allow'\n").len(), 2);
}

#[test]
fn unsafe_code_lives_only_in_the_modules_that_are_listed() {
    assert_none(sources::unlisted_unsafe(&Tree::of_the_project().rust_files(), sources::UNSAFE_MODULES));
}

#[test]
fn unlisted_and_no_longer_unsafe_modules_are_found() {
    let allowed = ("a/src/ring.rs".to_owned(), "//! Ring.\n#![allow(unsafe_code)]\n".to_owned());
    let item = ("a/src/lib.rs".to_owned(), "//! Lib.\n#[allow( unsafe_code )]\nfn f() {}\n".to_owned());
    let expect = ("a/src/map.rs".to_owned(), "//! Map.\n#![expect(missing_docs, unsafe_code)]\n".to_owned());
    let mention = ("a/src/doc.rs".to_owned(), "//! Says why there is no `allow(unsafe_code)` here.\n".to_owned());
    assert_eq!(sources::unlisted_unsafe(std::slice::from_ref(&allowed), &[]).len(), 1);
    assert_eq!(sources::unlisted_unsafe(&[item], &["a/src/ring.rs"]).len(), 2, "an item's attribute, and a stale entry");
    assert_eq!(sources::unlisted_unsafe(&[expect], &[]).len(), 1);
    assert_none(sources::unlisted_unsafe(&[allowed, mention], &["a/src/ring.rs"]));
}

#[test]
fn the_delivery_state_machines_do_no_input_or_output() {
    let files = Tree::of_the_project().rust_files();
    for directory in sources::SANS_IO {
        assert!(files.iter().any(|(path, _)| path.starts_with(directory)), "{directory} holds no source: the rule guards nothing");
    }
    assert_none(sources::input_or_output(&files));
}

#[test]
fn input_and_output_are_found_however_they_are_named() {
    let found = |text: &str| sources::input_or_output(&[(format!("{}x.rs", sources::SANS_IO[0]), text.to_owned())]).len();
    assert_eq!(found("fn f() { let t = std::time::Instant::now(); }"), 1);
    assert_eq!(found("use std::{collections::BTreeMap, time::{Duration, SystemTime}};"), 1);
    assert_eq!(found("use std::{net::{IpAddr, UdpSocket}, fs as files};"), 3);
    assert_eq!(found("use core::time::Duration; use std::thread;"), 1);
    assert_eq!(found("async fn f() { tokio::time::sleep(d).await; rand::random::<u8>(); }"), 2);
    assert_eq!(found("use std::collections::HashMap;"), 1, "its order of iteration is random");
    assert_eq!(found("// std::fs is not used here\n/* nor std::net */ const S: &str = \"std::thread\";"), 0);
    assert_eq!(found("use std::collections::{BTreeMap, VecDeque}; use wire::{ChunkId, Sequence}; fn f(net: u8) -> u8 { net }"), 0);
    let elsewhere = ("sender/src/engine/x.rs".to_owned(), "use std::fs;".to_owned());
    assert_none(sources::input_or_output(&[elsewhere]));
}

#[test]
fn nothing_is_left_to_be_written() {
    assert_none(sources::unfinished(&Tree::of_the_project().rust_files()));
}

#[test]
fn unfinished_code_is_found() {
    for unfinished in ["todo!()", "unimplemented!(\"later\")", "todo ! ( )"] {
        let file = ("a/src/lib.rs".to_owned(), format!("//! Lib.\nfn f() {{ {unfinished} }}\n"));
        assert_eq!(sources::unfinished(&[file]).len(), 1, "{unfinished}");
    }
    let comment = ("a/src/lib.rs".to_owned(), "//! Never todo!().\nfn f() { g(\"todo!\") }\n".to_owned());
    assert_none(sources::unfinished(&[comment]));
}

#[test]
fn every_source_file_says_first_what_it_is_about() {
    assert_none(sources::without_subject(&Tree::of_the_project().rust_files()));
}

#[test]
fn a_file_without_a_subject_is_found() {
    let sample = |text: &str| sources::without_subject(&[("a/src/lib.rs".to_owned(), text.to_owned())]).len();
    assert_eq!(sample("use std::fs;\n"), 1);
    assert_eq!(sample("//!\nuse std::fs;\n"), 1);
    assert_eq!(sample("#![allow(unsafe_code)]\n//! The ring.\n"), 0);
    assert_eq!(sample("//! The ring.\n"), 0);
}

#[test]
fn c_sources_carry_the_dual_licence() {
    let tree = Tree::of_the_project();
    let files = tree.c_files();
    assert!(!files.is_empty(), "no C source found: the rule guards nothing");
    assert_none(sources::without_dual_licence(&files));
}

#[test]
fn a_c_source_without_the_dual_licence_is_found() {
    let sample = |name: &str, text: &str| sources::without_dual_licence(&[(name.to_owned(), text.to_owned())]).len();
    let header = "/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */\n";
    let section = "char LICENSE[] SEC(\"license\") = \"Dual BSD/GPL\";\n";
    assert_eq!(sample("x.bpf.c", section), 1);
    assert_eq!(sample("x.bpf.c", header), 1, "the kernel reads the licence from its section");
    assert_eq!(sample("x.bpf.c", &format!("// SPDX-License-Identifier: GPL-2.0\n{section}")), 1);
    assert_eq!(sample("x.bpf.c", &format!("{header}{section}")), 0);
    assert_eq!(sample("x.h", header), 0, "a header has no section");
}

#[test]
fn scripts_are_executable_and_parse() {
    let tree = Tree::of_the_project();
    let scripts = tree.scripts();
    assert!(!scripts.is_empty(), "no script found: the rule guards nothing");
    assert_none(scripts.iter().filter_map(|path| tree::script_fault(path)).collect());
}

#[test]
fn a_script_that_cannot_run_is_found() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    for (text, mode, faulty) in
        [("#!/bin/sh\ntrue\n", 0o755, false), ("#!/bin/sh\ntrue\n", 0o644, true), ("#!/bin/sh\nif\n", 0o755, true), ("true\n", 0o755, true)]
    {
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(tree::script_fault(&script).is_some(), faulty, "{text:?} {mode:o}");
    }
}
