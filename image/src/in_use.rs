//! Why a block device must not be written to, or not be read as if it stood still: it, or a partition of it, is mounted, is swap, or belongs
//! to something like LVM or RAID. The kernel refuses such a device when it is opened for writing with O_EXCL; this finds the words to say so.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// What uses the device with this number, as a sentence without its subject's name; `None` when nothing is found.
pub(crate) fn reason(device: u64) -> Option<String> {
    user(device, false)
}

/// As [`reason`], of what may be writing to it: filesystems that are mounted read-only do not count.
pub(crate) fn writer(device: u64) -> Option<String> {
    user(device, true)
}

fn user(device: u64, writing: bool) -> Option<String> {
    let sys = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let mut devices = vec![("it".to_owned(), device, sys.clone())];
    for entry in fs::read_dir(&sys).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.join("partition").exists()
            && let Some(number) = fs::read_to_string(path.join("dev")).ok().and_then(|text| parse_number(text.trim()))
        {
            devices.push((format!("its partition {}", entry.file_name().to_string_lossy()), number, path));
        }
    }
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    devices.iter().find_map(|(name, number, sys)| {
        if let Some(place) = mounts.split(|&byte| byte == b'\n').find_map(|line| mount_point(line, *number, writing)) {
            return Some(format!("{name} is mounted at {}", place.display()));
        }
        if swaps.split(|&byte| byte == b'\n').skip(1).any(|line| first_field_is(line, *number)) {
            return Some(format!("{name} is in use as swap"));
        }
        let holder = fs::read_dir(sys.join("holders")).ok()?.flatten().next()?;
        Some(format!("{name} is in use by {}", holder.file_name().to_string_lossy()))
    })
}

fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The mount point of a line of mountinfo (proc_pid_mountinfo(5)) when the device of that number is mounted there. Some filesystems, such as
/// btrfs, have a device number of their own in the third field; then the source after the dash tells. With `writing`, only when the
/// filesystem is writable: the options of the filesystem itself count, since a read-only bind mount may have a writable sibling.
fn mount_point(line: &[u8], device: u64, writing: bool) -> Option<PathBuf> {
    let mut fields = line.split(|&byte| byte == b' ');
    let number = fields.nth(2).and_then(|field| std::str::from_utf8(field).ok()).and_then(parse_number)?;
    let place = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(2);
    let source = fields.next();
    let read_only = fields.next().is_some_and(|options| options.split(|&byte| byte == b',').any(|option| option == b"ro"));
    let same = number == device || source.is_some_and(|source| is_device(&unescape(source), device));
    (same && !(writing && read_only)).then_some(place)
}

fn first_field_is(line: &[u8], device: u64) -> bool {
    let path = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    is_device(&unescape(path), device)
}

fn is_device(path: &Path, device: u64) -> bool {
    path.is_absolute() && fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device() && found.rdev() == device)
}

/// The kernel writes space, tab, newline and backslash as octal numbers.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|digits| first == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match digits {
            Some(digits) => {
                bytes.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_gives_its_mount_point() {
        let line = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount_point(line, rustix::fs::makedev(98, 0), false), Some(PathBuf::from("/mnt two")));
        assert_eq!(mount_point(line, rustix::fs::makedev(98, 1), false), None);
        assert_eq!(mount_point(b"", 0, false), None);
    }

    #[test]
    fn only_a_writable_filesystem_writes() {
        let device = rustix::fs::makedev(98, 0);
        let written = b"36 35 98:0 / /mnt ro,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount_point(written, device, true), Some(PathBuf::from("/mnt")));
        let still = b"36 35 98:0 / /mnt ro,noatime - ext3 /dev/root ro,errors=continue";
        assert_eq!(mount_point(still, device, true), None);
        assert_eq!(mount_point(still, device, false), Some(PathBuf::from("/mnt")));
    }
}
