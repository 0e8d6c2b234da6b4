//! Finding the backing file of a qcow2 image. The name stands in the image, which may come from anywhere: a name like `/etc/shadow` would
//! have that file packed and sent. Unless the operator allows more, only a file in the same directory is followed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Refused;

/// Images in a chain.
pub(super) const CHAIN_IMAGES_MAX: usize = 16;

/// What opening the images of a chain has to remember.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// Device and inode of each image that is open.
    seen: Vec<(u64, u64)>,
    anywhere: bool,
}

impl Chain {
    /// Of one image so far. `anywhere`: backing files need not be beside the image that names them.
    pub(super) fn new(image: &fs::Metadata, anywhere: bool) -> Self {
        Self { seen: vec![(image.dev(), image.ino())], anywhere }
    }

    /// The path of the backing file that `image` calls `name`, and the chain with it.
    pub(super) fn follow(&self, image: &Path, name: &[u8]) -> Result<(PathBuf, Self), Refused> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let refused = |why: &str| Refused::from(format!("its backing file {shown:?} {why}"));
        let flatten = "convert the image with `qemu-img convert -O qcow2 IN OUT`, which puts both into one file";
        // A protocol of QEMU's, like nbd: or json:.
        let before_slash = name.split(|&byte| byte == b'/').next().unwrap_or_default();
        if before_slash.contains(&b':') || name.contains(&0) {
            return Err(refused(&format!("is no plain file: {flatten}")));
        }
        let image = fs::canonicalize(image).map_err(|error| refused(&format!("cannot be found: {error}")))?;
        let directory = image.parent().unwrap_or(Path::new("/"));
        let path = fs::canonicalize(directory.join(OsStr::from_bytes(name)));
        let path = path.map_err(|error| refused(&format!("cannot be opened: {error}")))?;
        if !self.anywhere && path.parent() != Some(directory) {
            return Err(refused(&format!("is not in the directory of the image that names it, so it is not read: {flatten}")));
        }
        let metadata = fs::metadata(&path).map_err(|error| refused(&format!("cannot be opened: {error}")))?;
        if !metadata.is_file() {
            return Err(refused(&format!("is no regular file: {flatten}")));
        }
        let mut chain = self.clone();
        let inode = (metadata.dev(), metadata.ino());
        if chain.seen.contains(&inode) {
            return Err(refused("leads back to the image itself"));
        }
        if chain.seen.len() >= CHAIN_IMAGES_MAX {
            return Err(refused(&format!("makes a chain of more than {CHAIN_IMAGES_MAX} images: {flatten}")));
        }
        chain.seen.push(inode);
        Ok((path, chain))
    }
}
