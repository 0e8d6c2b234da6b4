//! Images of containers give the tree that their layers make.
#![allow(clippy::unwrap_used)]

mod archive_fixtures;
mod common;

use std::fs;
use std::path::{Path, PathBuf};

use archive_fixtures::{Tar, list, run};
use common::pack;
use image::Error;
use image::pack::PackOptions;
use image::source::{SourceOptions, open};
use ring::digest::{SHA256, digest};

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image layout that is put together by hand.
struct Layout {
    directory: PathBuf,
}

impl Layout {
    fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        Self { directory }
    }

    /// Stores a blob. Returns its descriptor without the braces.
    fn blob(&self, media_type: &str, bytes: &[u8]) -> String {
        let hex = hex(bytes);
        fs::write(self.directory.join("blobs/sha256").join(&hex), bytes).unwrap();
        format!(r#""mediaType": "application/vnd.oci.image.{media_type}", "digest": "sha256:{hex}", "size": {}"#, bytes.len())
    }

    /// Stores the manifest of an image of these layers.
    fn image(&self, layers: &[Vec<u8>]) -> String {
        let layers: Vec<_> = layers.iter().map(|layer| format!("{{{}}}", self.blob("layer.v1.tar", layer))).collect();
        let config = self.blob("config.v1+json", b"{}");
        let manifest = format!(r#"{{"schemaVersion": 2, "config": {{{config}}}, "layers": [{}]}}"#, layers.join(","));
        self.blob("manifest.v1+json", manifest.as_bytes())
    }

    fn index(&self, descriptors: &[String]) {
        let index = format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, descriptors.join(","));
        fs::write(self.directory.join("index.json"), index).unwrap();
    }
}

fn here() -> String {
    platform(if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })
}

fn platform(architecture: &str) -> String {
    format!(r#""platform": {{"architecture": "{architecture}", "os": "linux"}}"#)
}

fn compressed(directory: &Path, tool: &str, layer: &[u8]) -> Vec<u8> {
    fs::write(directory.join("layer"), layer).unwrap();
    run(directory, "sh", &["-c", &format!("{tool} < layer > layer.out")]);
    fs::read(directory.join("layer.out")).unwrap()
}

/// Paths, kinds and modes of the image at `path`.
fn shown(directory: &Path, path: &Path) -> Vec<String> {
    let made = pack(&[("a", path)], &directory.join("a.pack"), PackOptions::default()).unwrap();
    list(&made, 0).into_iter().skip(1).map(|entry| format!("{} {}", entry.path, entry.kind)).collect()
}

fn error_of(path: &Path) -> String {
    match open(path, SourceOptions::default()) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => {
            assert!(matches!(error, Error::Source { .. }), "{error}");
            error.to_string()
        }
    }
}

/// Three layers that use all that layers can do.
fn layers(directory: &Path) -> Vec<Vec<u8>> {
    let mut base = Tar::default();
    base.directory("etc", 0o755).file("etc/passwd", b"root").file("etc/gone", b"x").directory("opt", 0o755).file("opt/old", b"x");
    base.directory("opt/deep", 0o755).file("opt/deep/old", b"x").symlink("lib", "usr/lib").directory("usr", 0o755);
    base.directory("usr/lib", 0o755).file("usr/lib/libc.so", b"libc").file("becomes", b"a file");
    let mut second = Tar::default();
    // What stands in the same layer stays, whatever the order.
    second.file("opt/new", b"new").file("opt/.wh..wh..opq", b"").file("etc/.wh.gone", b"").file("lib/libm.so", b"libm");
    second.hard_link("etc/passwd-", "etc/passwd").directory("becomes", 0o700).file("becomes/more", b"1").file(".wh..wh.plnk", b"");
    let mut third = Tar::default();
    third.file("etc/passwd", b"root, changed").file("usr/.wh.nothing", b"").file("lib/.wh.libc.so", b"");
    vec![base.bytes(), compressed(directory, "gzip -n", &second.bytes()), compressed(directory, "zstd -q", &third.bytes())]
}

const EXPECTED: [&str; 11] = [
    "becomes directory",
    "becomes/more file of 1",
    "etc directory",
    "etc/passwd file of 13",
    // The layer below keeps what the upper one replaced under another name.
    "etc/passwd- file of 4",
    "lib symlink to usr/lib",
    "opt directory",
    "opt/new file of 3",
    "usr directory",
    "usr/lib directory",
    "usr/lib/libm.so file of 4",
];

#[test]
fn layers_are_applied_with_their_whiteouts() {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::new(directory.path().join("layout"));
    let other = layout.image(&[Tar::default().file("wrong", b"x").bytes()]);
    let image = layout.image(&layers(directory.path()));
    let statement =
        format!(r#"{{{other}, {}, "annotations": {{"vnd.docker.reference.type": "attestation-manifest"}}}}"#, platform("unknown"));
    let inner = format!(r#"{{"manifests": [{{{other}, {}}}, {{{image}, {}}}, {statement}]}}"#, platform("riscv64"), here());
    layout.index(&[format!("{{{}}}", layout.blob("index.v1+json", inner.as_bytes()))]);
    let expected = EXPECTED;
    assert_eq!(shown(directory.path(), &layout.directory), expected);
    run(directory.path(), "tar", &["-cf", "archive", "-C", "layout", "."]);
    assert_eq!(shown(directory.path(), &directory.path().join("archive")), expected);
    run(directory.path(), "gzip", &["-1", "archive"]);
    assert_eq!(shown(directory.path(), &directory.path().join("archive.gz")), expected);
}

#[test]
fn of_several_images_the_first_that_fits_is_taken_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::new(directory.path().join("layout"));
    let image = |name: &str| {
        let image = layout.image(&[Tar::default().file(name, b"x").bytes()]);
        format!(r#"{{{image}, "annotations": {{"org.opencontainers.image.ref.name": "{name}"}}}}"#)
    };
    layout.index(&[image("one"), image("two")]);
    let source = open(&layout.directory, SourceOptions::default()).unwrap();
    assert!(source.notes().iter().any(|note| note.contains("(one, two); one is taken")), "{:?}", source.notes());
    assert_eq!(shown(directory.path(), &layout.directory), ["one file of 1"]);
    let foreign = layout.image(&[Tar::default().file("wrong", b"x").bytes()]);
    layout.index(&[format!("{{{foreign}, {}}}", platform("s390x"))]);
    assert!(error_of(&layout.directory).contains("for linux/s390x"));
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..3 {
        let layout = Layout::new(directory.path().join(format!("layout{number}")));
        let layer = Tar::default().file("file", b"content").bytes();
        let layer = if number == 0 { layer } else { compressed(directory.path(), "gzip -n", &layer) };
        let image = layout.image(std::slice::from_ref(&layer));
        layout.index(&[format!("{{{image}}}")]);
        assert!(open(&layout.directory, SourceOptions::default()).is_ok());
        let mut changed = layer.clone();
        match number {
            0 => changed[512] ^= 1,
            // The operating system's number in gzip's header: nothing that decompressing would notice.
            1 => changed[9] ^= 1,
            _ => changed.extend_from_slice(&[0; 7]),
        }
        fs::write(layout.directory.join("blobs/sha256").join(hex(&layer)), changed).unwrap();
        let error = error_of(&layout.directory);
        assert!(error.contains("SHA-256 is another") || number == 2, "{error}");
    }
    let layout = Layout::new(directory.path().join("hostile"));
    layout.index(&[r#"{"digest": "sha256:../../../../etc/passwd"}"#.to_owned()]);
    assert!(error_of(&layout.directory).contains("only sha256 is"));
}

#[test]
fn what_docker_save_wrote_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved");
    fs::create_dir_all(saved.join("1")).unwrap();
    fs::create_dir_all(saved.join("2")).unwrap();
    let (one, two) = (Tar::default().file("a", b"x").file("b", b"x").bytes(), Tar::default().file(".wh.a", b"").bytes());
    fs::write(saved.join("1/layer.tar"), &one).unwrap();
    fs::write(saved.join("2/layer.tar"), &two).unwrap();
    // Equal layers are links to one of them.
    std::os::unix::fs::symlink("../1/layer.tar", saved.join("2/again.tar")).unwrap();
    let config =
        format!(r#"{{"rootfs": {{"type": "layers", "diff_ids": ["sha256:{0}", "sha256:{1}", "sha256:{0}"]}}}}"#, hex(&one), hex(&two));
    fs::write(saved.join("config.json"), config).unwrap();
    let manifest = |layers| format!(r#"[{{"Config": "config.json", "RepoTags": ["a:1"], "Layers": [{layers}]}}]"#);
    fs::write(saved.join("manifest.json"), manifest(r#""1/layer.tar", "2/layer.tar", "2/again.tar""#)).unwrap();
    let archive = directory.path().join("saved.tar");
    run(directory.path(), "tar", &["-cf", "saved.tar", "-C", "saved", "."]);
    assert_eq!(shown(directory.path(), &archive), ["a file of 1", "b file of 1"]);
    fs::write(saved.join("manifest.json"), manifest(r#""1/layer.tar", "1/layer.tar", "2/layer.tar""#)).unwrap();
    run(directory.path(), "tar", &["-cf", "saved.tar", "-C", "saved", "."]);
    assert!(error_of(&archive).contains("SHA-256 is another"));
    // Any other file of that name is a file.
    fs::write(saved.join("manifest.json"), r#"{"name": "an app"}"#).unwrap();
    run(directory.path(), "tar", &["-cf", "saved.tar", "-C", "saved", "."]);
    assert!(shown(directory.path(), &archive).contains(&"manifest.json file of 18".to_owned()));
}
