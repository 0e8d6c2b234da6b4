//! One session of a contestant: programs that wait, programs whose start makes the transfer begin, and programs whose end says that an image is there.

use std::path::PathBuf;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::stage::Stage;
use crate::lab::{Machine, Process};

/// See the module's text. Ends with its programs.
pub(super) struct Session {
    /// Killed when all have ended that are watched.
    pub(super) servers: Vec<Process>,
    pub(super) watched: Vec<Watched>,
}

/// A program that has to end well.
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) state: State,
    /// What is there when it ends.
    pub(super) delivers: Vec<PathBuf>,
}

pub(super) enum State {
    /// To be started, by somebody who may come late.
    Waits {
        machine: Machine,
        program: PathBuf,
        arguments: Vec<String>,
        late: bool,
    },
    Runs(Process),
    Ended,
}

/// Hands a delivered file to a thread that flushes it to the disk.
type Flush<'scope> = ScopedJoinHandle<'scope, Result<()>>;

impl Session {
    /// Starts what is to be started, those who come late at `late_at`, and waits until all have ended; each file is flushed from the moment it is there.
    pub(super) fn run<'scope>(
        mut self,
        stage: &Stage<'_>,
        late_at: Instant,
        deadline: Instant,
        scope: &'scope Scope<'scope, '_>,
        flushes: &mut Vec<Flush<'scope>>,
    ) -> Result<()> {
        while self.watched.iter().any(|watched| !matches!(watched.state, State::Ended)) {
            for watched in &mut self.watched {
                let delivered = watched.step(stage, late_at)?;
                flushes.extend(delivered.into_iter().map(|path| scope.spawn(move || flush(&path))));
            }
            ensure!(Instant::now() < deadline, "not done in time");
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(self.servers);
        Ok(())
    }
}

impl Watched {
    fn step(&mut self, stage: &Stage<'_>, late_at: Instant) -> Result<Vec<PathBuf>> {
        match &mut self.state {
            State::Waits { machine, program, arguments, late } => {
                if !*late || Instant::now() >= late_at {
                    self.state = State::Runs(stage.process(&self.name, machine, &*program, &*arguments)?);
                }
                Ok(Vec::new())
            }
            State::Runs(process) => {
                let Some(ended) = process.ended()? else { return Ok(Vec::new()) };
                if ended.code != Some(0) {
                    bail!("{} ended with {:?}:\n{}{}", self.name, ended.code, ended.stdout, ended.stderr);
                }
                self.state = State::Ended;
                Ok(std::mem::take(&mut self.delivers))
            }
            State::Ended => Ok(Vec::new()),
        }
    }
}

fn flush(path: &PathBuf) -> Result<()> {
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.sync_all().with_context(|| format!("flushing {}", path.display()))
}
