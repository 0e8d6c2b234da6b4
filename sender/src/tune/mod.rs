//! Settings of the machine and of one network interface that decide how fast packets pass: what they are, what they should be, and how they are put back.
//!
//! [`survey`] reads, [`apply`] changes and remembers what was there in a file below /run (so that a reboot, which undoes the settings, forgets it too), [`undo`]
//! restores. Nothing is changed without being asked for, and every change is a line.

mod ethtool;
mod knob;
mod memory;
mod survey;

pub use knob::{Knob, KnobError};
pub use memory::{Memory, MemoryError};
pub use survey::{Wishes, survey};

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// The name that administrators know: `net.core.rmem_max`, `ring rx`.
    pub name: String,
    /// What it is now.
    pub current: String,
    /// What it should be; `None` when it is reported only.
    pub wanted: Option<String>,
    /// What it does for a transfer.
    pub why: &'static str,
    /// How it is changed.
    #[serde(skip)]
    pub knob: Knob,
}

impl Setting {
    /// Whether something would change.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| *wanted != self.current)
    }
}

/// What became of one setting.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// The setting.
    pub name: String,
    /// What it was.
    pub from: String,
    /// What it is now, or should have become.
    pub to: String,
    /// Why it could not be changed.
    pub error: Option<String>,
}

/// Changes every setting that is due. What was there is in `memory` before it is changed.
///
/// # Errors
/// When nothing can be remembered: then nothing is changed. A setting that refuses is an entry with its error.
pub fn apply(settings: &[Setting], memory: &mut Memory) -> Result<Vec<Change>, MemoryError> {
    let mut changes = Vec::new();
    for setting in settings.iter().filter(|setting| setting.is_due()) {
        let Some(wanted) = &setting.wanted else { continue };
        let new = memory.remember(setting)?;
        let outcome = setting.knob.set(wanted);
        if outcome.is_err() && new {
            memory.forget(&setting.name)?;
        }
        changes.push(Change {
            name: setting.name.clone(),
            from: setting.current.clone(),
            to: wanted.clone(),
            error: outcome.err().map(|error| error.to_string()),
        });
    }
    Ok(changes)
}

/// Puts back what [`apply`] changed, last change first. What has been restored is forgotten; what refuses stays remembered.
///
/// # Errors
/// When the memory cannot be written.
pub fn undo(memory: &mut Memory) -> Result<Vec<Change>, MemoryError> {
    let mut changes = Vec::new();
    for past in memory.changes() {
        let outcome = past.knob.set(&past.before);
        changes.push(Change {
            name: past.name.clone(),
            from: past.after.clone(),
            to: past.before.clone(),
            error: outcome.as_ref().err().map(ToString::to_string),
        });
        if outcome.is_ok() {
            memory.forget(&past.name)?;
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn setting(directory: &Path, name: &str, wanted: &str) -> Setting {
        let path = directory.join(name);
        let current = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        Setting { name: name.to_owned(), current, wanted: Some(wanted.to_owned()), why: "", knob: Knob::File(path) }
    }

    #[test]
    fn what_was_applied_twice_is_undone_to_what_was_there_first() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a"), "1\n").unwrap();
        fs::write(directory.path().join("b"), "5\n").unwrap();
        let state = directory.path().join("state/tune.json");
        let mut memory = Memory::open(&state).unwrap();
        for wanted in ["2", "3"] {
            let settings = [setting(directory.path(), "a", wanted), setting(directory.path(), "b", "5")];
            let changes = apply(&settings, &mut memory).unwrap();
            assert_eq!(changes.len(), 1, "b is as it should be");
        }
        assert_eq!(fs::read_to_string(directory.path().join("a")).unwrap(), "3");
        // Another process undoes it.
        let mut memory = Memory::open(&state).unwrap();
        let changes = undo(&mut memory).unwrap();
        assert_eq!(changes, [Change { name: "a".into(), from: "3".into(), to: "1".into(), error: None }]);
        assert_eq!(fs::read_to_string(directory.path().join("a")).unwrap(), "1");
        assert!(undo(&mut memory).unwrap().is_empty());
        assert!(!state.exists());
    }

    #[test]
    fn a_setting_that_refuses_is_reported_and_not_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(&directory.path().join("tune.json")).unwrap();
        let mut refusing = setting(directory.path(), "a", "2");
        refusing.knob = Knob::File(directory.path().join("none/at/all"));
        let changes = apply(&[refusing], &mut memory).unwrap();
        assert!(changes[0].error.is_some());
        assert!(memory.changes().is_empty());
    }
}
