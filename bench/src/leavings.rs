//! What this program would leave behind when SIGINT or SIGTERM ends it, and does not: programs that it has started, network
//! namespaces, files. A signal runs no destructor; so each of them is on a list from its beginning to its end, and the first signal
//! undoes what is on the list and ends this program with 128 and the signal's number. The second one ends it at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, test_kill_process_group, waitid, waitpid};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Programs that SIGTERM has not ended within this are killed: they may have a loop device or a session to give back.
const GRACE: Duration = Duration::from_secs(2);
/// How soon an end is noticed.
const LOOK: Duration = Duration::from_millis(5);

/// What is to be undone, in the order of its beginning.
#[derive(Default)]
struct List {
    next: u64,
    /// Process groups by their leaders, which have not been waited for: so their numbers are nobody else's yet.
    groups: BTreeMap<u64, Pid>,
    undos: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
    /// Taken off the list and not done yet.
    undoing: u32,
    /// A signal came: nothing is begun any more.
    leaving: bool,
}

static LIST: Mutex<List> = Mutex::new(List { next: 0, groups: BTreeMap::new(), undos: BTreeMap::new(), undoing: 0, leaving: false });
static UNDONE: Condvar = Condvar::new();

/// The list, whatever the state of this program.
fn list() -> MutexGuard<'static, List> {
    // Nothing panics half-way through a change of it.
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The list, for who begins or ends something; not to be had any more once a signal has come: who asks then waits for the end.
fn open_list() -> MutexGuard<'static, List> {
    let list = list();
    if list.leaving {
        drop(list);
        loop {
            thread::park();
        }
    }
    list
}

impl List {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Waits for the end of this program if a signal is ending it, so that `main` does not return before all is undone.
pub fn settle() {
    drop(open_list());
}

/// Begins to listen to signals, unless that has been done.
fn listen() -> Result<()> {
    static LISTENING: OnceLock<Result<(), String>> = OnceLock::new();
    let begin = || -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut signals = signals.forever();
            let Some(first) = signals.next() else { return };
            let code = 128 + first;
            thread::spawn(move || {
                leave();
                std::process::exit(code);
            });
            if signals.next().is_some() {
                std::process::exit(code);
            }
        })?;
        Ok(())
    };
    let listening = LISTENING.get_or_init(|| begin().map_err(|error| error.to_string()));
    listening.clone().map_err(anyhow::Error::msg).context("preparing for signals")
}

/// Undoes all that is on the list: ends the programs, then does the rest, last things first.
fn leave() {
    let mut list = list();
    list.leaving = true;
    let groups: Vec<Pid> = std::mem::take(&mut list.groups).into_values().collect();
    end_groups(&groups);
    for undo in std::mem::take(&mut list.undos).into_values().rev() {
        undo();
    }
    while list.undoing > 0 {
        list = UNDONE.wait(list).unwrap_or_else(PoisonError::into_inner);
    }
}

/// SIGTERM, and SIGKILL for who is left after [`GRACE`].
fn end_groups(groups: &[Pid]) {
    let is_there = |group: &&Pid| {
        // Nobody waits for it any more, and a leader that is not waited for counts as a member. An error: it has been.
        let _ = waitpid(Some(**group), WaitOptions::NOHANG);
        test_kill_process_group(**group).is_ok()
    };
    for signal in [Signal::TERM, Signal::KILL] {
        for &group in groups.iter().filter(is_there) {
            // An error: it has ended by itself.
            let _ = kill_process_group(group, signal);
        }
        let deadline = Instant::now() + GRACE;
        while groups.iter().any(|group| is_there(&group)) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
    }
}

/// Something that is undone on drop, and when a signal ends this program.
pub(crate) struct Undo(u64);

impl Undo {
    /// `undo` must neither begin nor end anything else that is on the list, and has to cope with what is half made or gone.
    ///
    /// # Errors
    /// When signals cannot be listened to.
    pub(crate) fn later(undo: impl FnOnce() + Send + 'static) -> Result<Undo> {
        listen()?;
        let mut list = open_list();
        let number = list.number();
        list.undos.insert(number, Box::new(undo));
        Ok(Undo(number))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let mut open = open_list();
        let Some(undo) = open.undos.remove(&self.0) else { return };
        open.undoing += 1;
        // Not under the lock, which others need to end their programs.
        drop(open);
        undo();
        list().undoing -= 1;
        UNDONE.notify_all();
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Undo").field(&self.0).finish()
    }
}

/// A program that this one has started, with what that starts: a process group. Killed on drop, ended when a signal ends this program.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) inner: std::process::Child,
    number: u64,
}

impl Child {
    /// Starts it.
    ///
    /// # Errors
    /// When that fails, or signals cannot be listened to.
    pub(crate) fn start(command: &mut Command) -> Result<Child> {
        listen()?;
        let mut list = open_list();
        let inner = command.process_group(0).spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        let number = list.number();
        list.groups.insert(number, Pid::from_child(&inner));
        Ok(Child { inner, number })
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        // Under the lock: the number of a process that has been waited for may be another's.
        let mut list = open_list();
        let status = self.inner.try_wait()?;
        if status.is_some() {
            list.groups.remove(&self.number);
        }
        Ok(status)
    }

    /// Waits until it has ended, and says how.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub(crate) fn wait(mut self) -> io::Result<ExitStatus> {
        // Without taking its number from it, which needs the lock.
        waitid(WaitId::Pid(Pid::from_child(&self.inner)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        self.ended()?.ok_or_else(|| io::Error::other("a program that has ended has no status"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let mut list = open_list();
        if let Some(group) = list.groups.remove(&self.number) {
            // Neither can fail in a way that matters: the child is ours, and if it has ended there is nothing to kill.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.inner.wait();
        }
    }
}

/// Runs a program to its end, without input, and returns what it wrote.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let mut child = Child::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (child.inner.stdout.take(), child.inner.stderr.take());
    thread::scope(|scope| -> io::Result<()> {
        let reading = scope.spawn(|| err.map_or(Ok(0), |mut err| io::Read::read_to_end(&mut err, &mut stderr)));
        out.map_or(Ok(0), |mut out| io::Read::read_to_end(&mut out, &mut stdout))?;
        reading.join().map_err(|_| io::Error::other("the reader panicked"))??;
        Ok(())
    })?;
    let status = child.wait()?;
    Ok(Output { status, stdout, stderr })
}

/// Runs a program that has to end well, without input, and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or fails; the error carries its standard error.
pub(crate) fn succeed(command: &mut Command) -> Result<Vec<u8>> {
    let output = output(command)?;
    let name = command.get_program().display();
    ensure!(output.status.success(), "{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_wrote_is_returned_and_its_failure_says_why() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            succeed(&mut command)
        };
        assert_eq!(shell("echo yes; echo no >&2").unwrap(), b"yes\n");
        let error = shell("echo because >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains("because") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_child_is_dropped_with_what_it_has_started() {
        let mut command = Command::new("sh");
        let child = Child::start(command.args(["-c", "sleep 600 & sleep 600"])).unwrap();
        let group = Pid::from_child(&child.inner);
        test_kill_process_group(group).unwrap();
        drop(child);
        let deadline = Instant::now() + GRACE;
        while test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < deadline, "somebody is left");
            thread::sleep(LOOK);
        }
    }

    #[test]
    fn what_is_on_the_list_is_undone_on_drop_once() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU32, Ordering};
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let undo = Undo::later(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 0);
        drop(undo);
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }
}
