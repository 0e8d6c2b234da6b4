//! Adding images to a pack and removing some: a new pack is made of the images that stay and those that come, in which chunks that did not
//! change are copied as they are stored; it takes the old one's place when it is complete.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use super::build::{PackOptions, build_with};
use super::compress::Earlier;
use super::from_pack::PackSource;
use super::request::refuse_own_source;
use super::{Pack, PreparedImage};
use crate::{Error, Progress, Result};

/// Makes `pack` anew without the images named in `remove` and with those in `add`, which come last. Chunks keep their size; codec and level of
/// `options` are for chunks that did not exist before. The pack is verified first. It is signed when `options` have a key, whatever it was.
///
/// # Errors
/// When the pack is damaged, a name does not exist or exists already, a source cannot be read or changes meanwhile, or the new pack cannot be
/// written. The old one is untouched then.
pub fn edit(pack: Arc<Pack>, add: Vec<PreparedImage>, remove: &[String], options: &PackOptions, progress: &Progress) -> Result<Pack> {
    for name in remove {
        pack.image_index(name)?;
    }
    // Under its real name: a symbolic link to it stays one.
    let path = fs::canonicalize(pack.path()).map_err(Error::io("finding", pack.path()))?;
    refuse_own_source(add.iter().map(|image| image.source.path()), &path)?;
    pack.verify(progress)?;
    let mut images = Vec::new();
    for (index, info) in pack.images().iter().enumerate().filter(|(_, info)| !remove.contains(&info.name)) {
        images.push(PreparedImage { name: info.name.clone(), source: Box::new(PackSource::new(Arc::clone(&pack), index)?) });
    }
    images.extend(add);
    let earlier = Earlier { pack: &pack, chunks: chunks_by_raw_hash(&pack)? };
    let options = PackOptions { chunk_pages: pack.chunk_pages(), force: true, ..options.clone() };
    build_with(images, &path, &options, Some(&earlier), progress)
}

/// Chunks whose raw bytes are known by their hash: those that are not compressed, and those of packs that say it.
fn chunks_by_raw_hash(pack: &Pack) -> Result<HashMap<[u8; 32], crate::ChunkId>> {
    let mut chunks = HashMap::new();
    for image in 0..pack.images().len() {
        for chunk in pack.manifest(image)?.chunks {
            if let Some(hash) = chunk.raw_hash {
                chunks.insert(hash, chunk.id);
            }
        }
    }
    Ok(chunks)
}
