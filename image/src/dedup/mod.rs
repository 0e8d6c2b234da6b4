//! Deduplication: which pages exist, which images want each, and where each will be stored.

mod image_sets;
mod index;
mod layout;
mod page_hash;

pub(crate) use image_sets::{ImageSets, SetCache, SetId};
pub(crate) use index::{PageIndex, PageKey, PageState};
pub(crate) use layout::{Layout, PageSlot};
pub(crate) use page_hash::PageHasher;
