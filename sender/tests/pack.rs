//! `discus pack`, `keygen`, `sign`, `verify` and `inspect` as programs: what they print and how they exit. Needs no root.
// Helpers outside test functions, too: what is unexpected here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A directory with two images that have half of their pages in common.
    fn new() -> Scratch {
        let scratch = Scratch(tempfile::tempdir().unwrap());
        let pages = |range: std::ops::Range<u32>| range.flat_map(|page| [page; 1024]).flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
        std::fs::write(scratch.path("web.raw"), pages(1..41)).unwrap();
        std::fs::write(scratch.path("db.raw"), pages(21..61)).unwrap();
        scratch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn discus(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_discus")).args(arguments.split(' ')).current_dir(&self.0).output().unwrap()
    }

    /// What a command that is to succeed printed.
    fn done(&self, arguments: &str) -> String {
        let Output { status, stdout, stderr } = self.discus(arguments);
        assert!(status.success(), "discus {arguments}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.done(&format!("{arguments} --json"))).unwrap()
    }

    /// Exit code and message of a command that is to fail.
    fn failed(&self, arguments: &str) -> (i32, String) {
        let Output { status, stderr, .. } = self.discus(arguments);
        (status.code().unwrap(), String::from_utf8(stderr).unwrap())
    }

    fn image_names(&self) -> Vec<String> {
        let report = self.json("inspect fleet.pack");
        report["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_signed_pack_is_verified_with_its_key_and_no_other() {
    let scratch = Scratch::new();
    let key = scratch.json("keygen -o fleet")["key"].as_str().unwrap().to_owned();
    scratch.done("keygen -o other");
    assert_eq!(std::fs::metadata(scratch.path("fleet.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, message) = scratch.failed("keygen -o fleet");
    assert!(code == 5 && message.contains("never overwritten"), "{code} {message}");

    let packed = scratch.json("pack --sign fleet.key -o fleet.pack web=web.raw db=db.raw");
    assert_eq!(packed["signed_by"], key.as_str());
    assert!(scratch.done("inspect fleet.pack").contains(&format!("signed by {key}")));
    assert_eq!(scratch.json("verify fleet.pack --key fleet.pub")["signature_checked"], true);
    assert!(scratch.done(&format!("verify fleet.pack --key {key}")).contains("signed by"));
    let (code, message) = scratch.failed("verify fleet.pack --key other.pub");
    assert!(code == 9 && message.contains("another key"), "{code} {message}");

    scratch.done("pack -o plain.pack web=web.raw");
    let (code, message) = scratch.failed("verify plain.pack --key fleet.pub");
    assert!(code == 9 && message.contains("not signed"), "{code} {message}");
    assert_eq!(scratch.json("sign plain.pack --key fleet.key")["signed_by"], key.as_str());
    scratch.done("verify plain.pack --key fleet.pub");
}

#[test]
fn images_come_and_go() {
    let scratch = Scratch::new();
    scratch.done("keygen -o fleet");
    scratch.done("pack --sign fleet.key -o fleet.pack web=web.raw");
    let added = scratch.discus("pack -o fleet.pack --add db=db.raw copy=web.raw");
    assert!(added.status.success());
    assert!(String::from_utf8_lossy(&added.stderr).contains("is not any more"), "the signature is gone, and it says so");
    assert_eq!(scratch.image_names(), ["web", "db", "copy"]);
    scratch.done("pack -o fleet.pack --remove web copy --add new=web.raw");
    assert_eq!(scratch.image_names(), ["db", "new"]);
    let report = scratch.json("inspect fleet.pack");
    assert_eq!(report["total"]["unique_bytes"], 60 * 4096);
    assert_eq!(report["total"]["half_empty_chunks"], 3);
    assert_eq!(report["images"][0]["data_extents"], 2);

    for (arguments, expected) in [
        ("pack -o fleet.pack --remove web", 3),
        ("pack -o fleet.pack --add db=db.raw", 2),
        ("pack -o none.pack --add db=db.raw", 3),
        ("pack -o fleet.pack", 2),
        ("pack -o fleet.pack web=web.raw --add db=db.raw", 2),
        ("pack -o fleet.pack web=web.raw", 5),
    ] {
        let (code, message) = scratch.failed(arguments);
        assert_eq!(code, expected, "{arguments}: {message}");
    }
    assert_eq!(scratch.image_names(), ["db", "new"]);
}

#[test]
fn every_codec_is_restored() {
    let scratch = Scratch::new();
    for codec in ["none", "lz4", "zstd", "zstd --level 19"] {
        let packed = scratch.json(&format!("pack --force --codec {codec} -o fleet.pack web=web.raw db=db.raw"));
        assert_eq!(packed["total"]["compressed_chunks"], if codec == "none" { 0 } else { 3 });
        // One each: there is no filesystem in them.
        assert_eq!(packed["notes"].as_array().map(Vec::len), Some(2));
        scratch.done("restore db --pack fleet.pack -o restored --force");
        assert_eq!(std::fs::read(scratch.path("restored")).unwrap(), std::fs::read(scratch.path("db.raw")).unwrap());
    }
    assert_eq!(scratch.failed("pack --codec lz4 --level 3 -o other.pack web=web.raw").0, 2);
}

#[test]
fn what_is_packed_is_never_overwritten() {
    let scratch = Scratch::new();
    let before = std::fs::read(scratch.path("web.raw")).unwrap();
    std::fs::create_dir(scratch.path("models")).unwrap();
    scratch.done("pack -o fleet.pack db=db.raw");
    for arguments in [
        "pack --force -o web.raw db=db.raw web=web.raw",
        "pack -o models/fleet.pack models=models",
        "pack -o fleet.pack --add self=fleet.pack",
        "restore db --force --pack fleet.pack -o fleet.pack",
    ] {
        let (code, message) = scratch.failed(arguments);
        assert!(code == 5 && message.contains("is refused as a target"), "{arguments}: {code} {message}");
    }
    assert_eq!(std::fs::read(scratch.path("web.raw")).unwrap(), before);
    scratch.done("verify fleet.pack");
}

#[test]
fn what_cannot_be_packed_is_refused_before_sources_are_opened() {
    let scratch = Scratch::new();
    scratch.done("pack -o fleet.pack db=db.raw");
    for (arguments, expected) in [
        ("pack -o fleet.pack web=web.raw", 5),
        ("pack -o other.pack web=web.raw web=db.raw", 2),
        ("pack -o other.pack --chunk-pages 0 web=web.raw", 2),
        ("pack -o other.pack --level 50 web=web.raw", 2),
    ] {
        let (code, message) = scratch.failed(arguments);
        assert!(code == expected && !message.contains("note:"), "{arguments}: {code} {message}");
    }
}
