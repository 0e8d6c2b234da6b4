//! From what the sender said at enrolment to a manifest that may be followed: it is of the image that was asked for and, when the operator
//! gave a key, of a pack that this key signed. Chunks need no more: the manifest has the hash of each.

use image::pack::Proof;
use image::signature::PublicKey;
use image::{Error, Manifest, Result};

use crate::control::Enrolled;

/// The manifest of `image_name`. With a `key` nothing that this key has not signed is decoded.
///
/// # Errors
/// [`Error::Untrusted`] when the sender proves nothing, or not this; otherwise when the manifest is not valid.
pub fn checked_manifest(enrolled: &Enrolled, image_name: &str, key: Option<&PublicKey>) -> Result<Manifest> {
    if let Some(key) = key {
        if enrolled.proof.is_empty() {
            return Err(Error::Untrusted("the pack that the sender serves is not signed".into()));
        }
        let proof = Proof::decode(&enrolled.proof)?;
        proof.check_signature(key)?;
        proof.check_manifest(&enrolled.manifest)?;
        // A sender that comes back is held to this root.
        if proof.root() != enrolled.pack_root {
            return Err(Error::Untrusted("the sender serves another pack than the one whose proof it sent".into()));
        }
    }
    let manifest = Manifest::decode(&enrolled.manifest)?;
    if manifest.name != image_name {
        return Err(Error::Untrusted(format!("the sender sent the manifest of {} instead of {image_name}", manifest.name)));
    }
    Ok(manifest)
}
