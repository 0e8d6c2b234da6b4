//! What the rules look at: the files of the project, without build output.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's directory.
pub(crate) struct Tree {
    root: PathBuf,
}

/// A file: its path from the project's directory, and its text.
pub(crate) type File = (String, String);

impl Tree {
    /// The checkout that this test was built from.
    pub(crate) fn of_the_project() -> Tree {
        let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
        Tree { root: bench.parent().expect("bench/ lies in the workspace").to_owned() }
    }

    /// The text of the file at `path`.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Package name and manifest text of every workspace member.
    pub(crate) fn members(&self) -> Vec<(String, String)> {
        let workspace: toml::Table = self.read("Cargo.toml").parse().unwrap();
        let members = workspace["workspace"]["members"].as_array().unwrap();
        let manifest = |member: &toml::Value| {
            let text = self.read(&format!("{}/Cargo.toml", member.as_str().unwrap()));
            let name = text.parse::<toml::Table>().unwrap()["package"]["name"].as_str().unwrap().to_owned();
            (name, text)
        };
        members.iter().map(manifest).collect()
    }

    /// Every Rust source.
    pub(crate) fn rust_files(&self) -> Vec<File> {
        self.files(&[".rs"])
    }

    /// Every C source and header.
    pub(crate) fn c_files(&self) -> Vec<File> {
        self.files(&[".c", ".h"])
    }

    fn files(&self, endings: &[&str]) -> Vec<File> {
        let mut found = Vec::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.file_type().unwrap().is_dir() {
                    if name != "target" && !name.starts_with('.') {
                        directories.push(entry.path());
                    }
                } else if endings.iter().any(|ending| name.ends_with(ending)) {
                    let path = entry.path().strip_prefix(&self.root).unwrap().to_string_lossy().into_owned();
                    let text = self.read(&path);
                    found.push((path, text));
                }
            }
        }
        found.sort();
        found
    }

    /// Every file of scripts/ and .ci/.
    pub(crate) fn scripts(&self) -> Vec<PathBuf> {
        let entries = |directory: &str| fs::read_dir(self.root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        entries("scripts").chain(entries(".ci")).filter(|path| path.is_file()).collect()
    }
}

/// Why the script at `path` could not run, if so.
pub(crate) fn script_fault(path: &Path) -> Option<String> {
    let name = path.display();
    let text = fs::read_to_string(path).unwrap();
    if fs::metadata(path).unwrap().permissions().mode() & 0o111 != 0o111 {
        return Some(format!("{name} is not executable"));
    }
    if !text.starts_with("#!") {
        return Some(format!("{name} does not say what runs it (#!)"));
    }
    let shell = text.lines().next().is_some_and(|line| line.ends_with("sh"));
    let parsed = Command::new("bash").arg("-n").arg(path).output().unwrap();
    (shell && !parsed.status.success()).then(|| format!("{name}: {}", String::from_utf8_lossy(&parsed.stderr)))
}
