//! Numbers for sets of images: a page's set grows by one image at a time, and few different sets exist, so each gets a number.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::ImageSet;

/// The number of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetId(pub(crate) u32);

/// All sets that occur, shared by the hashing threads.
#[derive(Default)]
pub(crate) struct ImageSets {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    sets: Vec<ImageSet>,
    ids: HashMap<ImageSet, SetId>,
}

impl Known {
    fn id_of(&mut self, set: ImageSet) -> SetId {
        if let Some(&id) = self.ids.get(&set) {
            return id;
        }
        let id = SetId(self.sets.len() as u32);
        self.sets.push(set.clone());
        self.ids.insert(set, id);
        id
    }
}

impl ImageSets {
    /// The set of one image only.
    pub(crate) fn single(&self, image: usize) -> SetId {
        self.lock().id_of([image].into_iter().collect())
    }

    /// The set with one image more.
    fn with(&self, id: SetId, image: usize) -> SetId {
        let mut known = self.lock();
        let mut set = known.sets[id.0 as usize].clone();
        set.insert(image);
        known.id_of(set)
    }

    /// The sets, by number.
    pub(crate) fn into_sets(self) -> Vec<ImageSet> {
        self.known.into_inner().unwrap_or_else(PoisonError::into_inner).sets
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // A thread that panicked inside left at worst a set without pages.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one thread remembers of [`ImageSets`] while it adds one image to the sets of pages.
pub(crate) struct SetCache<'a> {
    sets: &'a ImageSets,
    image: usize,
    single: SetId,
    /// By set: the set with the image added, once it was asked for.
    with_image: Vec<Option<SetId>>,
}

impl<'a> SetCache<'a> {
    pub(crate) fn new(sets: &'a ImageSets, image: usize) -> Self {
        Self { sets, image, single: sets.single(image), with_image: Vec::new() }
    }

    /// The set of a page that was seen first in this image.
    pub(crate) fn single(&self) -> SetId {
        self.single
    }

    /// The set with this image added; itself when the image is in it already.
    pub(crate) fn with_image(&mut self, id: SetId) -> SetId {
        let index = id.0 as usize;
        if self.with_image.len() <= index {
            self.with_image.resize(index + 1, None);
        }
        *self.with_image[index].get_or_insert_with(|| self.sets.with(id, self.image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_number_whatever_way_leads_to_it() {
        let sets = ImageSets::default();
        let (mut first, mut second) = (SetCache::new(&sets, 0), SetCache::new(&sets, 1));
        let both = second.with_image(first.single());
        assert_eq!(both, first.with_image(second.single()));
        assert_eq!(both, first.with_image(both));
        assert_eq!(sets.into_sets().len(), 3);
    }
}
