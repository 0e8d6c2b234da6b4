//! A set of images of one pack, by their index in the pack.

use std::fmt;

/// Which images of a pack want something. Small and growing only, so a bitmap in 64-bit words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ImageSet {
    /// Bit `i % 64` of word `i / 64` stands for image `i`. The last word is never 0, so that equal sets are equal vectors.
    words: Vec<u64>,
}

impl ImageSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the image with this index.
    pub fn insert(&mut self, image: usize) {
        let word = image / 64;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (image % 64);
    }

    /// Whether the image with this index is in the set.
    #[must_use]
    pub fn contains(&self, image: usize) -> bool {
        self.words.get(image / 64).is_some_and(|word| word & (1 << (image % 64)) != 0)
    }

    /// How many images are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no image is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The indices of the images, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(index, &word)| (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit))
    }
}

impl FromIterator<usize> for ImageSet {
    fn from_iter<I: IntoIterator<Item = usize>>(images: I) -> Self {
        let mut set = Self::new();
        images.into_iter().for_each(|image| set.insert(image));
        set
    }
}

impl fmt::Display for ImageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, image) in self.iter().enumerate() {
            write!(f, "{}{image}", if position == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_inserted() {
        let set: ImageSet = [3, 64, 200].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 64, 200]);
        assert_eq!(set.len(), 3);
        assert!(set.contains(64) && !set.contains(65) && !set.contains(1000));
        assert!(ImageSet::new().is_empty() && !set.is_empty());
    }

    #[test]
    fn equal_sets_are_equal_however_they_were_built() {
        let one: ImageSet = [70, 1].into_iter().collect();
        let other: ImageSet = [1, 70, 1].into_iter().collect();
        assert_eq!(one, other);
    }
}
