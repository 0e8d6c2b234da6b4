//! The ways in which a setting is changed: a file of /proc or /sys, or the standard programs ethtool and ip.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// Where the value goes in a command's arguments.
pub(super) const VALUE: &str = "{}";

/// How a setting is changed. It is kept with the value to be restored, so that another process can undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    /// The value is written to a file.
    File(PathBuf),
    /// A command, whose argument `{}` becomes the value.
    Command {
        /// The program.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// A rule that ethtool adds; the value is its number, and "none" removes it.
    FlowRule {
        /// The interface.
        interface: String,
        /// UDP destination port.
        port: u16,
        /// The receive queue that its packets go to.
        queue: u32,
        /// The rule's number.
        location: u32,
    },
    /// It can only be reported.
    Fixed,
}

/// Why a setting stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum KnobError {
    /// A file would not take the value.
    #[error("writing {value} to {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program could not be run.
    #[error("running {program}: {source}; is it installed?")]
    Run {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program refused.
    #[error("{command}: {said}")]
    Refused {
        /// The command line.
        command: String,
        /// What it said.
        said: String,
    },
    /// There is no way to change it.
    #[error("it cannot be changed from here")]
    Fixed,
}

impl Knob {
    /// Gives the setting a value.
    ///
    /// # Errors
    /// [`KnobError`], with the kernel's or the program's own words.
    pub fn set(&self, value: &str) -> Result<(), KnobError> {
        match self {
            Knob::File(path) => {
                fs::write(path, value).map_err(|source| KnobError::File { path: path.clone(), value: value.to_owned(), source })
            }
            Knob::Command { program, arguments } => {
                let arguments = arguments.iter().map(|argument| if argument == VALUE { value.to_owned() } else { argument.clone() });
                run(program, &arguments.collect::<Vec<_>>())
            }
            Knob::FlowRule { interface, port, queue, location } => {
                let location = location.to_string();
                let arguments = if value == "none" {
                    vec!["-N".to_owned(), interface.clone(), "delete".to_owned(), location]
                } else {
                    let (port, queue) = (port.to_string(), queue.to_string());
                    ["-N", interface, "flow-type", "udp4", "dst-port", &port, "action", &queue, "loc", &location]
                        .map(str::to_owned)
                        .to_vec()
                };
                run("ethtool", &arguments)
            }
            Knob::Fixed => Err(KnobError::Fixed),
        }
    }
}

fn run(program: &str, arguments: &[String]) -> Result<(), KnobError> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| KnobError::Run { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(KnobError::Refused { command: format!("{program} {}", arguments.join(" ")), said })
}
