//! Signed packs: what openssl says of them, and that nothing altered in any bit passes for signed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{Page, pack, write_image};
use image::pack::{PackOptions, Proof, sign};
use image::signature::{PublicKey, SecretKey};
use image::{Error, Pack, Progress};

/// Two small images, signed or not.
fn small_pack(directory: &Path, key: Option<Arc<SecretKey>>) -> PathBuf {
    let (one, other) = (directory.join("one"), directory.join("other"));
    write_image(&one, &[Page::Text(1), Page::Text(2)], 0);
    write_image(&other, &[Page::Random(3), Page::Text(2)], 0);
    let output = directory.join("small.pack");
    pack(&[("one", &one), ("other", &other)], &output, PackOptions { key, ..PackOptions::default() }).unwrap();
    output
}

fn secret() -> Arc<SecretKey> {
    Arc::new(SecretKey::generate().unwrap())
}

#[test]
fn every_flipped_bit_of_a_signed_pack_is_noticed() {
    let directory = common::memory_directory();
    let key = secret();
    let path = small_pack(directory.path(), Some(Arc::clone(&key)));
    let check = || {
        let pack = Pack::open(&path)?;
        pack.proof().check_signature(&key.public_key())?;
        pack.verify(&Progress::default()).map(|_| ())
    };
    check().unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for (offset, &byte) in bytes.iter().enumerate() {
        // Every bit where the signature and what it covers directly is, one of every other byte: damage.rs does those.
        let bits = if offset + 1024 > bytes.len() { 0..8 } else { offset % 8..offset % 8 + 1 };
        for bit in bits {
            file.write_all_at(&[byte ^ (1 << bit)], offset as u64).unwrap();
            assert!(check().is_err(), "bit {bit} of byte {offset}");
        }
        file.write_all_at(&[byte], offset as u64).unwrap();
    }
    check().unwrap();
}

/// What a receiver does with what came from the network.
fn received(proof: &[u8], manifest: &[u8], key: &PublicKey) -> image::Result<()> {
    let proof = Proof::decode(proof)?;
    proof.check_signature(key)?;
    proof.check_manifest(manifest)
}

#[test]
fn every_flipped_bit_of_proof_and_manifest_is_refused() {
    let directory = common::memory_directory();
    let key = secret();
    let opened = Pack::open(&small_pack(directory.path(), Some(Arc::clone(&key)))).unwrap();
    let (proof, manifest) = (opened.proof_bytes().unwrap(), opened.manifest_section(1).unwrap());
    let key = key.public_key();
    received(&proof, &manifest, &key).unwrap();
    for bit in 0..proof.len() * 8 {
        let mut altered = proof.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(received(&altered, &manifest, &key), Err(Error::Untrusted(_))), "bit {bit} of the proof");
    }
    for bit in 0..manifest.len() * 8 {
        let mut altered = manifest.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(received(&proof, &altered, &key), Err(Error::Untrusted(_))), "bit {bit} of the manifest");
    }
    for length in 0..proof.len() {
        assert!(matches!(received(&proof[..length], &manifest, &key), Err(Error::Untrusted(_))), "{length} bytes of the proof");
    }
}

#[test]
fn another_key_no_signature_and_another_packs_manifest_are_refused() {
    let directory = common::memory_directory();
    let key = secret();
    let path = small_pack(directory.path(), Some(Arc::clone(&key)));
    let signed = Pack::open(&path).unwrap();
    let proof = signed.proof_bytes().unwrap();
    let manifest = signed.manifest_section(0).unwrap();
    let refused = |proof: &[u8], manifest: &[u8], key| match received(proof, manifest, &key) {
        Err(Error::Untrusted(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(&proof, &manifest, secret().public_key()).contains("another key"));
    let unsigned = Pack::open(&small_pack(directory.path(), None)).unwrap();
    assert!(refused(&unsigned.proof_bytes().unwrap(), &manifest, key.public_key()).contains("not signed"));
    assert!(refused(&proof, b"manifest", key.public_key()).contains("not one of the pack"));
}

#[test]
fn a_pack_is_signed_afterwards_and_anew() {
    let directory = common::memory_directory();
    let path = small_pack(directory.path(), None);
    let unsigned = fs::read(&path).unwrap();
    let root = Pack::open(&path).unwrap().root();
    for _ in 0..2 {
        let key = secret();
        let signed = sign(&Pack::open(&path).unwrap(), &key, &Progress::default()).unwrap();
        assert_eq!((signed.root(), signed.proof().signed_by()), (root, Some(key.public_key())));
        signed.verify(&Progress::default()).unwrap();
        // Nothing but the end differs.
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), unsigned.len() + 112);
        assert_eq!(bytes[..unsigned.len() - 64], unsigned[..unsigned.len() - 64]);
    }
}

#[test]
fn a_damaged_pack_is_not_signed() {
    let directory = common::memory_directory();
    let path = small_pack(directory.path(), None);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let outcome = sign(&Pack::open(&path).unwrap(), &secret(), &Progress::default());
    assert!(matches!(outcome, Err(Error::Pack { .. })), "{outcome:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// The recipe of docs/pack-format.md, and keys in both directions.
#[test]
fn openssl_verifies_a_pack_and_makes_keys_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "openssl.key"]);
    openssl(&["pkey", "-in", "openssl.key", "-pubout", "-out", "openssl.pub"]);
    image::signature::generate_files(&at("discus")).unwrap();
    for name in ["openssl", "discus"] {
        let key = SecretKey::load(&at(&format!("{name}.key"))).unwrap();
        assert_eq!(PublicKey::load(&at(&format!("{name}.pub"))).unwrap(), key.public_key());
        let bytes = fs::read(small_pack(directory.path(), Some(Arc::new(key)))).unwrap();
        let (rest, message) = bytes.split_at(bytes.len() - 64);
        fs::write(at("message"), message).unwrap();
        fs::write(at("signature"), &rest[rest.len() - 64..]).unwrap();
        let public = format!("{name}.pub");
        openssl(&["pkeyutl", "-verify", "-pubin", "-inkey", &public, "-rawin", "-in", "message", "-sigfile", "signature"]);
        openssl(&["pkey", "-in", &format!("{name}.key"), "-noout"]);
    }
}
