//! Reading tar archives: ustar, GNU and pax (POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; the GNU parts are described
//! in the GNU tar manual, "Basic Tar Format" and "Storing Sparse Files"). Only the headers are read; where the data lies is noted.
//!
//! Why not the crate tar: it takes memory for as long a name as the archive claims, and it reads the sparse files of pax archives as their maps.

use super::data::ReadAt;
use super::file_tree::{Content, Metadata};
use super::pax::{self, Records};
use super::sparse;
use crate::manifest::SIZE_BYTES_MAX;

pub(super) const BLOCK_BYTES: u64 = 512;
/// Bytes of a pax header or a GNU long name: room for every extended attribute of a file, in base64.
const EXTENSION_BYTES_MAX: u64 = 4 << 20;
/// Records of global headers: each member pays for them. git writes one.
const GLOBAL_RECORDS_MAX: usize = 100;
/// Read at a time; headers of small files lie close together.
const WINDOW_BYTES: usize = 64 << 10;

/// Why an archive cannot be read.
#[derive(Debug)]
pub(super) enum Malformed {
    /// The archive could not be read.
    Io(std::io::Error),
    /// It is damaged, or has what is not understood.
    Archive(String),
}

impl From<std::io::Error> for Malformed {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<&str> for Malformed {
    fn from(why: &str) -> Self {
        Self::Archive(why.to_owned())
    }
}

impl From<String> for Malformed {
    fn from(why: String) -> Self {
        Self::Archive(why)
    }
}

/// One member of an archive.
#[derive(Debug)]
pub(super) struct Member {
    /// As the archive has it.
    pub(super) path: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) kind: MemberKind,
    /// The member's ACLs name users or groups, which have no number here: they were left out.
    pub(super) acl_left_out: bool,
}

/// What a member is.
#[derive(Debug)]
pub(super) enum MemberKind {
    Directory,
    /// One more name of the member that has this path.
    HardLink(Vec<u8>),
    Other(Content),
}

/// Whether `block` begins with the header of a tar archive.
pub(in crate::source) fn is_tar_header(block: &[u8]) -> bool {
    block.first_chunk().is_some_and(|block| Header::new(block).is_marked() && Header::new(block).checksum_matches())
}

/// A header block.
pub(super) struct Header<'a>(&'a [u8; 512]);

impl<'a> Header<'a> {
    pub(super) fn new(block: &'a [u8; 512]) -> Self {
        Self(block)
    }

    pub(super) fn field(&self, at: usize, bytes: usize) -> &'a [u8] {
        self.0.get(at..).and_then(|rest| rest.get(..bytes)).unwrap_or_default()
    }

    /// A field that ends at its first NUL, or is full.
    fn text(&self, at: usize, bytes: usize) -> &'a [u8] {
        self.field(at, bytes).split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Octal digits, or with the first bit set GNU's base 256.
    pub(super) fn number(&self, at: usize, bytes: usize) -> Option<i64> {
        number(self.field(at, bytes))
    }

    /// ustar and pax have `ustar\0`, GNU `ustar `. The archives of before 1988 have nothing, and are read only where it is known that they are archives.
    fn is_marked(&self) -> bool {
        self.field(257, 5) == b"ustar"
    }

    /// GNU uses the place of the prefix for other things.
    fn has_prefix(&self) -> bool {
        self.field(257, 6) == b"ustar\0"
    }

    /// The sum of all bytes, the field of the sum itself taken as spaces. Some old programs summed signed bytes.
    fn checksum_matches(&self) -> bool {
        let Some(expected) = self.number(148, 8) else { return false };
        let bytes = || self.0.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
        expected == unsigned || expected == signed
    }

    pub(super) fn kind(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or(0)
    }
}

pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Two's complement, of which bit 6 of the first byte is the sign.
        let start = if first & 0x40 != 0 { i64::from(first) - 256 } else { i64::from(first & 0x3f) };
        return rest.iter().try_fold(start, |value, &byte| value.checked_mul(256)?.checked_add(i64::from(byte)));
    }
    let digits = field.iter().copied().skip_while(|&byte| byte == b' ').take_while(|&byte| byte != b' ' && byte != 0);
    digits.into_iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads the headers of `archive` one after the other, and hands each member to `take`. `file` is the number that [`Data`] gets.
pub(super) fn read(archive: &dyn ReadAt, file: usize, take: &mut dyn FnMut(Member) -> Result<(), Malformed>) -> Result<(), Malformed> {
    let mut blocks = Blocks { archive, window: Vec::new(), window_at: 0 };
    let mut at = 0u64;
    let mut global = Records::default();
    let mut local = Records::default();
    let (mut long_name, mut long_link) = (None, None);
    loop {
        let Some(block) = blocks.block(at)? else {
            // An archive should end with zeros; one that was cut off between two members cannot be told from one without them.
            return Ok(());
        };
        if block.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        let header = Header::new(&block);
        if !header.checksum_matches() {
            return Err(format!("the header at byte {at} is damaged: its checksum is wrong").into());
        }
        let named = |records: &Records, key: &[u8]| records.get(key).map(<[u8]>::to_vec);
        let own_size = header.number(124, 12).and_then(|size| u64::try_from(size).ok()).ok_or("a member's size is out of range")?;
        let data_at = at + BLOCK_BYTES;
        let kind = header.kind();
        if matches!(kind, b'L' | b'K' | b'x' | b'X' | b'g') {
            let bytes = blocks.extension(data_at, own_size)?;
            match kind {
                b'L' => long_name = Some(until_nul(bytes)),
                b'K' => long_link = Some(until_nul(bytes)),
                b'g' => {
                    global.merge(&bytes)?;
                    if global.len() > GLOBAL_RECORDS_MAX {
                        return Err("it has more than 100 global records".into());
                    }
                }
                _ => local.merge(&bytes)?,
            }
            at = after(data_at, own_size)?;
            continue;
        }
        let had_pax = local.len() > 0;
        let records = global.with(std::mem::take(&mut local));
        let stored_bytes = match records.get(b"size") {
            Some(size) => pax::decimal(size).ok_or("a member's size is out of range")?,
            None => own_size,
        };
        let path = named(&records, b"GNU.sparse.name").or_else(|| named(&records, b"path")).or(long_name.take());
        let path = path.unwrap_or_else(|| header_path(&header));
        long_name = None;
        let link = named(&records, b"linkpath").or(long_link.take()).unwrap_or_else(|| header.text(157, 100).to_vec());
        long_link = None;
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let (metadata, acl_left_out) = metadata(&header, &records).map_err(|why| format!("{}: {why}", shown()))?;
        let mut data_bytes = 0;
        let mut data_start = data_at;
        let kind = match kind {
            // A directory in the archives of before 1988, and of some later programs.
            0 | b'0' if path.ends_with(b"/") => MemberKind::Directory,
            // 7: files that should lie in one piece.
            0 | b'0' | b'7' | b'S' => {
                data_bytes = stored_bytes;
                let data;
                (data, data_start) =
                    sparse::data(&mut blocks, &header, &records, file, data_at, stored_bytes).map_err(|error| error.of(&shown()))?;
                MemberKind::Other(Content::File(data))
            }
            b'1' => {
                // Only pax archives may have data behind a hard link; elsewhere the size is the file's, and nothing follows.
                data_bytes = if had_pax { stored_bytes } else { 0 };
                MemberKind::HardLink(link)
            }
            b'2' => {
                if link.is_empty() || link.len() > crate::manifest::PATH_BYTES_MAX || link.contains(&0) {
                    return Err(format!("{}: a symbolic link's target is not valid", shown()).into());
                }
                MemberKind::Other(Content::Symlink(link))
            }
            b'3' => MemberKind::Other(device(&header, &records, |major, minor| Content::CharacterDevice { major, minor })?),
            b'4' => MemberKind::Other(device(&header, &records, |major, minor| Content::BlockDevice { major, minor })?),
            // D: a directory with a list of its names as data, in incremental archives.
            b'5' | b'D' => {
                data_bytes = if kind == b'D' { stored_bytes } else { 0 };
                MemberKind::Directory
            }
            b'6' => MemberKind::Other(Content::Fifo),
            // The label of a volume.
            b'V' => {
                at = after(data_at, stored_bytes)?;
                continue;
            }
            b'M' => return Err(format!("{}: archives of several volumes are not read: join them first", shown()).into()),
            other => return Err(format!("{}: a member of type {:?} is not understood", shown(), char::from(other)).into()),
        };
        let end = data_start.checked_add(data_bytes).ok_or("a member's size is out of range")?;
        if end > archive.bytes() {
            return Err(format!("the archive is cut off in {}", shown()).into());
        }
        at = after(data_start, data_bytes)?;
        take(Member { path, metadata, kind, acl_left_out })?;
    }
}

impl Malformed {
    fn of(self, name: &str) -> Self {
        match self {
            Self::Archive(why) => Self::Archive(format!("{name}: {why}")),
            io => io,
        }
    }
}

/// Where the block after `bytes` of data begins.
fn after(data_at: u64, bytes: u64) -> Result<u64, Malformed> {
    let padded = bytes.checked_next_multiple_of(BLOCK_BYTES);
    padded
        .and_then(|padded| data_at.checked_add(padded))
        .filter(|&end| end <= SIZE_BYTES_MAX)
        .ok_or_else(|| "a member's size is out of range".into())
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    bytes
}

fn header_path(header: &Header<'_>) -> Vec<u8> {
    let name = header.text(0, 100);
    let prefix = if header.has_prefix() { header.text(345, 155) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn metadata(header: &Header<'_>, records: &Records) -> Result<(Metadata, bool), &'static str> {
    let owner = |key: &[u8], at| {
        let id = match records.get(key) {
            Some(text) => pax::decimal(text),
            None => header.number(at, 8).and_then(|id| u64::try_from(id).ok()),
        };
        // The last one means "leave as it is" to chown.
        id.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX).ok_or("an owner is out of range")
    };
    let (mtime_s, mtime_ns) = match records.get(b"mtime") {
        Some(text) => pax::time(text).ok_or("a time is out of range")?,
        None => (header.number(136, 12).ok_or("a time is out of range")?, 0),
    };
    let mode = header.number(100, 8).ok_or("a mode is out of range")?;
    let (xattrs, acl_left_out) = pax::xattrs(records)?;
    // The low bits; some programs store the type of the file above them.
    let mode = (mode & 0o7777) as u16;
    Ok((Metadata { mode, uid: owner(b"uid", 108)?, gid: owner(b"gid", 116)?, mtime_s, mtime_ns, xattrs }, acl_left_out))
}

fn device(header: &Header<'_>, records: &Records, make: fn(u32, u32) -> Content) -> Result<Content, Malformed> {
    let number = |key: &[u8], at| {
        let number = match records.get(key) {
            Some(text) => pax::decimal(text),
            None => header.number(at, 8).and_then(|number| u64::try_from(number).ok()),
        };
        number.and_then(|number| u32::try_from(number).ok()).ok_or("the number of a device is out of range")
    };
    Ok(make(number(b"SCHILY.devmajor", 329)?, number(b"SCHILY.devminor", 337)?))
}

/// The archive, with the part that was read last.
pub(super) struct Blocks<'a> {
    archive: &'a dyn ReadAt,
    window: Vec<u8>,
    window_at: u64,
}

impl Blocks<'_> {
    /// The block at `at`; `None` at the end.
    pub(super) fn block(&mut self, at: u64) -> Result<Option<[u8; 512]>, Malformed> {
        for again in [false, true] {
            let within = at.checked_sub(self.window_at).and_then(|within| usize::try_from(within).ok());
            let found = within.and_then(|within| self.window.get(within..)).and_then(|rest| rest.first_chunk());
            if let Some(block) = found {
                return Ok(Some(*block));
            }
            if !again {
                self.window.resize(WINDOW_BYTES, 0);
                let bytes = self.archive.read_at(at, &mut self.window)?;
                self.window.truncate(bytes);
                self.window_at = at;
            }
        }
        if self.window.is_empty() { Ok(None) } else { Err("the archive is cut off in a header".into()) }
    }

    /// The data of a header that describes the next one.
    fn extension(&mut self, at: u64, bytes: u64) -> Result<Vec<u8>, Malformed> {
        if bytes > EXTENSION_BYTES_MAX {
            return Err("an extended header is longer than 4 MiB".into());
        }
        let mut extension = Vec::new();
        let mut next = at;
        // Grows with what the archive really has.
        while (extension.len() as u64) < bytes {
            extension.extend_from_slice(&self.block(next)?.ok_or("the archive is cut off in an extended header")?);
            next += BLOCK_BYTES;
        }
        extension.truncate(bytes as usize);
        Ok(extension)
    }
}
