//! The trees of btrfs: a walk over the items of one, from left to right.

use super::super::fields::{Stop, array, le32, le64, read_vec, slice, u8_at};
use super::chunks::Chunks;
use super::superblock::{Root, Superblock, checksum_is_right};
use crate::disk_image::Part;

/// `btrfs_header`.
const HEADER_BYTES: usize = 101;
/// `btrfs_disk_key`.
pub(super) const KEY_BYTES: usize = 17;
/// `btrfs_item`: key, offset, size.
const ITEM_BYTES: usize = KEY_BYTES + 8;
/// `btrfs_key_ptr`: key, logical address, generation.
const POINTER_BYTES: usize = KEY_BYTES + 16;
/// `BTRFS_MAX_LEVEL`: levels are below it.
const LEVELS_MAX: u8 = 8;

/// The key of an item. Trees are sorted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) object: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    pub(super) fn at(bytes: &[u8], at: usize) -> Result<Self, Stop> {
        Ok(Self { object: le64(bytes, at)?, kind: u8_at(bytes, at + 8)?, offset: le64(bytes, at + 9)? })
    }
}

/// What is called with each item: its key and its bytes.
pub(super) type Visit<'v> = dyn FnMut(Key, &[u8]) -> Result<(), Stop> + 'v;

/// What is needed to read tree blocks.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) volume: &'a Part<'a>,
    pub(super) superblock: &'a Superblock,
    pub(super) chunks: &'a Chunks,
}

impl Reader<'_> {
    /// Calls `visit` with every item of a tree, in order.
    pub(super) fn walk(self, root: Root, visit: &mut Visit<'_>) -> Result<(), Stop> {
        if root.level >= LEVELS_MAX {
            return Err(Stop::damaged("a tree is too high"));
        }
        Walk { reader: self, visit, last: None }.node(root, None)
    }

    fn block(self, root: Root) -> Result<Vec<u8>, Stop> {
        let superblock = self.superblock;
        let physical = self.chunks.physical(root.logical, superblock.node_bytes.into())?;
        // At most 64 KiB.
        let bytes = read_vec(self.volume, physical, superblock.node_bytes as usize)?;
        let sound = checksum_is_right(&bytes)?
            && array(&bytes, 32)? == superblock.metadata_uuid
            && le64(&bytes, 48)? == root.logical
            && u8_at(&bytes, 100)? == root.level;
        if sound { Ok(bytes) } else { Err(Stop::damaged(format_args!("the tree block at logical address {} is wrong", root.logical))) }
    }
}

/// It ends: blocks other than the root have an item, whose key is the one that led to the block, and the keys of the leaves have to ascend.
struct Walk<'a, 'v> {
    reader: Reader<'a>,
    visit: &'v mut Visit<'v>,
    last: Option<Key>,
}

impl Walk<'_, '_> {
    fn node(&mut self, root: Root, key: Option<Key>) -> Result<(), Stop> {
        let damaged = || Stop::damaged(format_args!("the items of the tree block at logical address {} are wrong", root.logical));
        let bytes = self.reader.block(root)?;
        let items = le32(&bytes, 96)? as usize;
        // Only the root of an empty tree has no items.
        if items > bytes.len() / ITEM_BYTES || items == 0 && (key.is_some() || root.level > 0) {
            return Err(damaged());
        }
        let mut last_pointer = None;
        for item in 0..items {
            let at = HEADER_BYTES + item * if root.level == 0 { ITEM_BYTES } else { POINTER_BYTES };
            let found = Key::at(&bytes, at)?;
            if item == 0 && key.is_some_and(|key| key != found) {
                return Err(damaged());
            }
            if root.level > 0 {
                if last_pointer >= Some(found) {
                    return Err(damaged());
                }
                last_pointer = Some(found);
                let child = Root { logical: le64(&bytes, at + KEY_BYTES)?, level: root.level - 1 };
                self.node(child, Some(found))?;
                continue;
            }
            if self.last >= Some(found) {
                return Err(damaged());
            }
            self.last = Some(found);
            let (offset, length) = (le32(&bytes, at + KEY_BYTES)? as usize, le32(&bytes, at + KEY_BYTES + 4)? as usize);
            (self.visit)(found, slice(&bytes, HEADER_BYTES.saturating_add(offset), length)?)?;
        }
        Ok(())
    }
}
