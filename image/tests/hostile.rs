//! The parsers of packs, manifests, signatures and chunks return whatever they are given: real ones with bytes changed, and noise.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::Arc;

use common::{Page, pack, write_image};
use image::fuzz;
use image::pack::PackOptions;
use image::signature::SecretKey;
use image::{Codec, Pack};
use proptest::prelude::*;

/// A signed pack, a manifest, a proof, and a chunk of it, to be changed.
struct Seeds {
    pack: Vec<u8>,
    manifest: Vec<u8>,
    proof: Vec<u8>,
    chunks: Vec<Vec<u8>>,
}

fn seeds() -> Seeds {
    let directory = common::memory_directory();
    let image = directory.path().join("image");
    write_image(&image, &[Page::Text(1), Page::Hole, Page::Random(2), Page::Zero, Page::Text(3), Page::Text(1)], 100);
    let build = |codec| {
        let key = Some(Arc::new(SecretKey::generate().unwrap()));
        pack(&[("image", &image)], &directory.path().join("pack"), PackOptions { codec, key, ..PackOptions::default() }).unwrap()
    };
    // The least significant bit says the codec, the others how many pages there is room for, less one.
    let chunk = |pack: &Pack, choice| {
        let record = &pack.chunks()[0];
        let bytes = fs::read(pack.path()).unwrap();
        [&[choice], &bytes[record.offset as usize..][..record.stored_bytes as usize]].concat()
    };
    let chunks = vec![chunk(&build(Codec::Lz4), 2 << 1), chunk(&build(Codec::Zstd), 2 << 1 | 1)];
    let plain = build(Codec::None);
    Seeds {
        pack: fs::read(plain.path()).unwrap(),
        manifest: plain.manifest_section(0).unwrap(),
        proof: plain.proof_bytes().unwrap(),
        chunks,
    }
}

fn with_changes(seed: &[u8], changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (at, value) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_parser_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        thread_local!(static SEEDS: Seeds = seeds());
        SEEDS.with(|seeds| {
            fuzz::pack(&with_changes(&seeds.pack, &changes));
            fuzz::manifest(&with_changes(&seeds.manifest, &changes));
            fuzz::signature(&with_changes(&seeds.proof, &changes));
            for chunk in &seeds.chunks {
                fuzz::chunk(&with_changes(chunk, &changes));
            }
        });
        for parse in [fuzz::pack, fuzz::manifest, fuzz::signature, fuzz::chunk] {
            parse(&noise);
        }
    }
}
