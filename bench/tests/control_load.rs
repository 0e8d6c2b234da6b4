//! The load generator of the control plane: fifty receivers over real connections, in two processes as `discus-bench control` starts them.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn all_receivers_of_a_small_load_are_listed_report_and_are_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_discus-bench"));
    command.args(["control", "--receivers", "50", "--seconds", "1", "--rate", "200", "--json", "--directory"]).arg(directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, expected) in [("completed", 50), ("acknowledged", 50), ("failed", 0), ("lost", 0)] {
        assert_eq!(figures[name], expected, "{name} in {figures}");
    }
    // 1 % is lost: the image was not complete without repair, and repair did not repeat it.
    let overhead = figures["overhead"].as_f64().unwrap();
    assert!((1.0..1.5).contains(&overhead), "{figures}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}
