//! Programs that run on the machines of a lab.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::network::holds_before;
use crate::leavings::Child;

/// A child of this process, in a namespace of a lab; killed on drop, with what it has started, and ended when a signal ends this program.
/// Its output goes to two files, which are kept as long as their directory is.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a process ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Process {
    /// Starts `program` with `arguments` in `namespace`. `name` distinguishes its output files in `directory` from those of others.
    ///
    /// # Errors
    /// When it cannot be started or the files cannot be made.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        directory: &Path,
        namespace: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Process> {
        let (stdout, stderr) = (directory.join(format!("{name}.stdout")), directory.join(format!("{name}.stderr")));
        // setpriv: the program dies with the thread that started it, even when that is killed and drops nothing (not a program that changes
        // its user, which the kernel lets live). Both wrappers replace themselves by what they start, so the child's id is the program's.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = Child::start(&mut command).with_context(|| format!("starting {}", program.display()))?;
        Ok(Process { child, name: name.to_owned(), stdout, stderr })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.inner.id()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has been waited for already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("no process id"))?;
        kill_process(id, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub fn ended(&mut self) -> Result<Option<Ended>> {
        Ok(self.child.ended()?.map(|status| self.end(status)))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When `limit` passes before; it is then killed, and the error carries its standard error.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(ended) = self.ended()? {
                return Ok(ended);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end within {limit:?}; it wrote:\n{}", self.name, self.stderr());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it has written a line, to standard output or standard error, for which `wanted` returns something, and returns that.
    ///
    /// # Errors
    /// When it ends or `limit` passes before; the error carries its standard error.
    pub fn wait_for_line<T>(&mut self, what: &str, limit: Duration, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut found = None;
        let mut gone = None;
        let outputs = [self.stderr.clone(), self.stdout.clone()];
        let in_time = holds_before(Instant::now() + limit, || {
            gone = self.child.ended().ok().flatten();
            // Only whole lines: the last one may still grow.
            found = outputs.iter().find_map(|path| read_lossy(path).rsplit_once('\n')?.0.lines().find_map(&wanted));
            found.is_some() || gone.is_some()
        });
        match found {
            Some(found) => Ok(found),
            None if in_time => bail!("{} ended ({gone:?}) before {what}; it wrote:\n{}", self.name, self.stderr()),
            None => bail!("{}: {what} did not happen within {limit:?}; it wrote:\n{}", self.name, self.stderr()),
        }
    }

    /// The fingerprint that `discus serve` prints once it takes receivers.
    ///
    /// # Errors
    /// As [`Process::wait_for_line`].
    pub fn wait_for_fingerprint(&mut self, limit: Duration) -> Result<String> {
        self.wait_for_line("printing its fingerprint", limit, |line| {
            let at = line.find("sha256:")?;
            line.get(at..at + "sha256:".len() + 64).map(str::to_owned)
        })
    }

    fn end(&self, status: ExitStatus) -> Ended {
        Ended { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
