//! The io_uring that reads and writes of targets go through. It owns the buffers that the kernel is using, so that callers need no unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};

use super::buffer_pool::{Buffer, BufferPool};
use super::registered::RegisteredBuffers;
use crate::{Error, Result};

/// A buffer that the ring owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HoldId(u32);

/// A read or write that has ended, well or not: its tag, and the bytes moved.
pub(super) struct Completion {
    pub(super) tag: u32,
    pub(super) result: io::Result<u32>,
}

struct Hold {
    buffer: Buffer,
    /// What the kernel knows it by.
    number: Option<u16>,
    in_flight: u32,
    /// Some of what is in flight is a read: the kernel may be changing the buffer.
    reading: bool,
}

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

pub(super) struct Ring {
    uring: IoUring,
    depth: u32,
    in_flight: u32,
    holds: Vec<Option<Hold>>,
    free_holds: Vec<u32>,
    registered: RegisteredBuffers,
}

/// Whether the kernel lets this process have an io_uring, without which nothing is restored.
///
/// # Errors
/// [`Error::Uring`], with the kernel's answer.
pub fn io_uring_available() -> Result<()> {
    IoUring::new(2).map(drop).map_err(|error| Error::Uring { error })
}

impl Ring {
    /// A ring for `depth` reads and writes at a time. The buffers of `pools` are registered as they are used; when the kernel refuses that, the second
    /// value says why and writes name their memory each time.
    pub(super) fn new(depth: u32, pools: &[&BufferPool]) -> Result<(Self, Option<String>)> {
        let depth = depth.clamp(1, 4096);
        let uring = IoUring::new(depth).map_err(|error| Error::Uring { error })?;
        let registered = RegisteredBuffers::new(&uring, pools);
        let note = registered.refused().map(|error| format!("buffers are not registered with io_uring: {error} (memory lock limit?)"));
        let ring = Self { uring, depth, in_flight: 0, holds: Vec::new(), free_holds: Vec::new(), registered };
        Ok((ring, note))
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_flight >= self.depth
    }

    /// Takes a buffer that is going to be written from or read into.
    pub(super) fn hold(&mut self, mut buffer: Buffer) -> HoldId {
        let number = self.registered.number(&self.uring, &mut buffer);
        let hold = Some(Hold { buffer, number, in_flight: 0, reading: false });
        if let Some(id) = self.free_holds.pop() {
            self.holds[id as usize] = hold;
            return HoldId(id);
        }
        self.holds.push(hold);
        HoldId(self.holds.len() as u32 - 1)
    }

    /// Bytes of a held buffer, unless a read into it is in flight.
    pub(super) fn bytes(&self, id: HoldId, range: Range<usize>) -> Option<&[u8]> {
        self.holds.get(id.0 as usize)?.as_ref().filter(|hold| !hold.reading)?.buffer.get(range)
    }

    /// The same to be changed, unless anything is in flight.
    pub(super) fn bytes_mut(&mut self, id: HoldId, range: Range<usize>) -> Option<&mut [u8]> {
        self.holds.get_mut(id.0 as usize)?.as_mut().filter(|hold| hold.in_flight == 0)?.buffer.get_mut(range)
    }

    /// Gives a buffer back to its pool, unless the kernel is using it.
    pub(super) fn release(&mut self, id: HoldId) {
        if let Some(slot) = self.holds.get_mut(id.0 as usize)
            && slot.as_ref().is_some_and(|hold| hold.in_flight == 0)
        {
            *slot = None;
            self.free_holds.push(id.0);
        }
    }

    /// Queues a write of part of a held buffer; [`Ring::submit`] starts it. `fd` must stay open until the write has ended.
    ///
    /// # Errors
    /// When the ring is full or the range is outside the buffer: mistakes of the caller.
    pub(super) fn write(&mut self, id: HoldId, range: Range<usize>, fd: BorrowedFd<'_>, offset: u64, tag: u32) -> io::Result<()> {
        self.push(Direction::Write, id, range, fd, offset, tag)
    }

    /// Queues a read into part of a held buffer; otherwise as [`Ring::write`].
    ///
    /// # Errors
    /// As [`Ring::write`].
    pub(super) fn read(&mut self, id: HoldId, range: Range<usize>, fd: BorrowedFd<'_>, offset: u64, tag: u32) -> io::Result<()> {
        self.push(Direction::Read, id, range, fd, offset, tag)
    }

    fn push(&mut self, direction: Direction, id: HoldId, range: Range<usize>, fd: BorrowedFd<'_>, offset: u64, tag: u32) -> io::Result<()> {
        let hold = self.holds.get_mut(id.0 as usize).and_then(Option::as_mut);
        let hold = hold.filter(|hold| range.start <= range.end && range.end <= hold.buffer.len());
        let hold = hold.ok_or_else(|| io::Error::other("a read or write reaches outside its buffer"))?;
        let length = u32::try_from(range.len()).map_err(io::Error::other)?;
        // SAFETY: `range` is inside the buffer.
        let start = unsafe { hold.buffer.as_ptr().add(range.start) };
        let fd = types::Fd(fd.as_raw_fd());
        let entry = match (direction, hold.number) {
            (Direction::Write, Some(number)) => opcode::WriteFixed::new(fd, start, length, number).offset(offset).build(),
            (Direction::Write, None) => opcode::Write::new(fd, start, length).offset(offset).build(),
            (Direction::Read, Some(number)) => opcode::ReadFixed::new(fd, start, length, number).offset(offset).build(),
            (Direction::Read, None) => opcode::Read::new(fd, start, length).offset(offset).build(),
        };
        let entry = entry.user_data(u64::from(id.0) << 32 | u64::from(tag));
        // SAFETY: the memory belongs to a buffer in `holds`, which is neither dropped nor lent mutably while `in_flight` says
        // that the kernel may use it: `release` and `bytes_mut` refuse, and `drop` waits. While the kernel may change it, `reading`
        // says so and nobody is lent it: `bytes` refuses too.
        unsafe { self.uring.submission().push(&entry) }.map_err(io::Error::other)?;
        hold.in_flight += 1;
        hold.reading |= direction == Direction::Read;
        self.in_flight += 1;
        Ok(())
    }

    /// Starts what is queued.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// Starts what is queued and takes what has ended; with `wait`, waits for at least one when any is in flight.
    pub(super) fn complete(&mut self, wait: bool, ended: &mut Vec<Completion>) -> io::Result<()> {
        if wait && self.in_flight > 0 && self.uring.completion().is_empty() {
            self.enter(1)?;
        }
        for entry in self.uring.completion() {
            let (id, tag) = ((entry.user_data() >> 32) as usize, entry.user_data() as u32);
            if let Some(hold) = self.holds.get_mut(id).and_then(Option::as_mut) {
                hold.in_flight -= 1;
                hold.reading &= hold.in_flight > 0;
            }
            self.in_flight -= 1;
            let result = match entry.result() {
                error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
                bytes => Ok(bytes as u32),
            };
            ended.push(Completion { tag, result });
        }
        Ok(())
    }

    fn enter(&mut self, wait_for: usize) -> io::Result<()> {
        loop {
            match self.uring.submit_and_wait(wait_for) {
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The kernel is out of room for now: what is in flight makes some.
                    Some(libc::EAGAIN | libc::EBUSY) if self.in_flight > 0 => std::thread::yield_now(),
                    _ => return Err(error),
                },
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut ended = Vec::new();
        while self.in_flight > 0 {
            if self.complete(true, &mut ended).is_err() {
                // The kernel may still use these: better lost than given to somebody else.
                std::mem::forget(std::mem::take(&mut self.holds));
                return;
            }
        }
    }
}
