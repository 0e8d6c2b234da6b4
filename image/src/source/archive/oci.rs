//! Images of containers as the tree that their layers give: OCI image layouts (image-spec: image-layout.md, image-index.md, manifest.md,
//! layer.md), in a directory or an archive, and what `docker save` wrote before it wrote these. Every blob is checked against its digest.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::data::{DataFile, ReadAt, Reader, spool};
use super::file_tree::FileTree;
use super::tar::{Malformed, Member};
use super::{ArchiveSource, Findings, read_tar};
use crate::source::compression::{Compression, read_full};
use crate::{Error, Result};

/// The registries' own limit for a manifest.
const JSON_BYTES_MAX: u64 = 4 << 20;
/// Indexes within indexes.
const INDEX_DEPTH_MAX: u32 = 4;
const LAYERS_MAX: usize = 512;

/// Where the blobs are.
#[derive(Debug)]
pub(super) enum Store<'a> {
    /// An image layout in a directory.
    Directory(PathBuf),
    /// An image layout in an archive.
    Archive(&'a FileTree, &'a DataFile),
    /// What `docker save` wrote, in an archive.
    Docker(&'a FileTree, &'a DataFile),
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

/// An image of `manifest.json` in an archive of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct DockerConfig {
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// A layer that is to be applied.
struct Layer {
    file: DataFile,
    /// SHA-256 of its bytes in hexadecimal.
    digest: String,
}

impl<'a> Store<'a> {
    pub(super) fn of_directory(path: PathBuf) -> Self {
        Self::Directory(path)
    }

    /// `None` when the archive is an ordinary one.
    pub(super) fn of_archive(tree: &'a FileTree, file: &'a DataFile) -> Option<Self> {
        if tree.file(b"oci-layout").is_some() && tree.file(b"index.json").is_some() {
            return Some(Self::Archive(tree, file));
        }
        // A file of this name could be anything: it must be the right JSON, too.
        let docker = Self::Docker(tree, file);
        docker.docker_images(&file.path).is_ok().then_some(docker)
    }

    fn open(&self, name: &str) -> Result<DataFile> {
        match self {
            Self::Directory(path) => DataFile::open(&path.join(name)),
            Self::Archive(tree, file) | Self::Docker(tree, file) => {
                let refused = |why: &str| refused(&file.path, format!("{name} {why}"));
                let range = tree.file(name.as_bytes()).ok_or_else(|| refused("is missing in it"))?.in_one_piece();
                file.part(range.ok_or_else(|| refused("is stored as a sparse file in it"))?)
            }
        }
    }

    /// The blob of a descriptor, not yet checked.
    fn blob(&self, path: &Path, digest: &str) -> Result<(DataFile, String)> {
        let hex = hex_of(digest).ok_or_else(|| refused(path, format!("the digest {digest:?} is not read: only sha256 is")))?;
        Ok((self.open(&format!("blobs/sha256/{hex}"))?, hex.to_owned()))
    }

    /// The JSON of a descriptor's blob, checked.
    fn json<T: DeserializeOwned>(&self, path: &Path, digest: &str) -> Result<T> {
        let (file, hex) = self.blob(path, digest)?;
        let bytes = small_file(&file)?;
        if to_hex(ring::digest::digest(&SHA256, &bytes).as_ref()) != hex {
            return Err(wrong_digest(path, digest));
        }
        parse(path, digest, &bytes)
    }

    fn docker_images(&self, path: &Path) -> Result<Vec<DockerImage>> {
        let images: Vec<DockerImage> = parse(path, "manifest.json", &small_file(&self.open("manifest.json")?)?)?;
        if images.is_empty() { Err(refused(path, "manifest.json names no image")) } else { Ok(images) }
    }
}

/// The image in `store` as a tree.
pub(super) fn open(path: PathBuf, store: &Store<'_>) -> Result<ArchiveSource> {
    let mut notes = Vec::new();
    let layers = match store {
        Store::Docker(..) => docker_layers(&path, store, &mut notes)?,
        _ => oci_layers(&path, store, &mut notes)?,
    };
    if layers.len() > LAYERS_MAX {
        return Err(refused(&path, format!("it has more than {LAYERS_MAX} layers")));
    }
    let mut tree = FileTree::new();
    let mut found = Findings::default();
    let mut files = Vec::new();
    for layer in layers {
        let file = unpacked(layer, &path)?;
        apply(&file, files.len(), &path, &mut tree, &mut found)?;
        files.push(file);
    }
    notes.extend(found.notes(&path, &tree));
    Ok(ArchiveSource { path, tree, files, notes })
}

fn oci_layers(path: &Path, store: &Store<'_>, notes: &mut Vec<String>) -> Result<Vec<Layer>> {
    let mut index: Index = parse(path, "index.json", &small_file(&store.open("index.json")?)?)?;
    for _ in 0..INDEX_DEPTH_MAX {
        let descriptor = choose(path, index.manifests, notes)?;
        if descriptor.media_type.ends_with(".index.v1+json") || descriptor.media_type.ends_with(".list.v2+json") {
            index = store.json(path, &descriptor.digest)?;
            continue;
        }
        let manifest: Manifest = store.json(path, &descriptor.digest)?;
        let layer = |layer: Descriptor| {
            if layer.media_type.ends_with("+encrypted") {
                return Err(refused(path, "its layers are encrypted: decrypt it first"));
            }
            let (file, digest) = store.blob(path, &layer.digest)?;
            Ok(Layer { file, digest })
        };
        return manifest.layers.into_iter().map(layer).collect();
    }
    Err(refused(path, "its indexes are nested too deeply"))
}

/// The image for this machine's kind of processor.
fn choose(path: &Path, manifests: Vec<Descriptor>, notes: &mut Vec<String>) -> Result<Descriptor> {
    // Statements about how an image was built stand beside the images (BuildKit).
    let is_image = |descriptor: &Descriptor| !descriptor.annotations.contains_key("vnd.docker.reference.type");
    let images: Vec<_> = manifests.into_iter().filter(is_image).collect();
    let names = |images: &[Descriptor]| images.iter().map(describe).collect::<Vec<_>>().join(", ");
    let fits = |image: &&Descriptor| {
        image.platform.as_ref().is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture())
    };
    let fitting: Vec<_> = images.iter().filter(fits).cloned().collect();
    let Some(first) = fitting.first() else {
        let why = format!("it has no image for linux/{}, only: {}", architecture(), names(&images));
        return Err(refused(path, why));
    };
    if fitting.len() > 1 {
        let (chosen, all) = (describe(first), names(&fitting));
        notes.push(format!("{}: it has several images for this machine ({all}); {chosen} is taken, the first", path.display()));
    }
    Ok(first.clone())
}

fn describe(image: &Descriptor) -> String {
    let name = image.annotations.get("org.opencontainers.image.ref.name").unwrap_or(&image.digest);
    match &image.platform {
        Some(platform) => format!("{name} for {}/{}", platform.os, platform.architecture),
        None => name.clone(),
    }
}

/// The name that Go, and so OCI, gives this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn docker_layers(path: &Path, store: &Store<'_>, notes: &mut Vec<String>) -> Result<Vec<Layer>> {
    let images = store.docker_images(path)?;
    let names: Vec<String> = images.iter().map(|image| image.repo_tags.clone().unwrap_or_default().join(" ")).collect();
    if names.len() > 1 {
        notes.push(format!("{}: it has several images ({}); the first is taken", path.display(), names.join(", ")));
    }
    let Some(image) = images.into_iter().next() else { return Err(refused(path, "manifest.json names no image")) };
    let config: DockerConfig = parse(path, &image.config, &small_file(&store.open(&image.config)?)?)?;
    if config.rootfs.diff_ids.len() != image.layers.len() {
        return Err(refused(path, "its configuration has another number of layers than its manifest"));
    }
    let layer = |(name, digest): (&String, &String)| {
        let digest = hex_of(digest).ok_or_else(|| refused(path, format!("the digest {digest:?} is not read: only sha256 is")))?;
        let file = store.open(name)?;
        // The digests are those of the layers before any compression.
        Ok(Layer { file, digest: digest.to_owned() })
    };
    image.layers.iter().zip(&config.rootfs.diff_ids).map(layer).collect()
}

/// Checks a layer, and decompresses it to a temporary file when it is compressed.
fn unpacked(layer: Layer, path: &Path) -> Result<DataFile> {
    let mut beginning = [0; 8];
    let filled = layer.file.read_at(0, &mut beginning).map_err(Error::io("reading", path))?;
    let mut hashed = Hashed { inner: Reader::of(&layer.file), hash: Context::new(&SHA256) };
    let spooled = match Compression::of(beginning.get(..filled).unwrap_or_default()) {
        None => None,
        Some(compression) => {
            let mut stream =
                compression.reader(BufReader::with_capacity(128 << 10, &mut hashed)).map_err(|error| compression.error(path, error))?;
            Some(spool(&mut *stream, compression, path)?)
        }
    };
    // What the decompressor did not need, or all of it.
    let mut rest = vec![0; 128 << 10];
    while read_full(&mut hashed, &mut rest).map_err(Error::io("reading", path))? > 0 {}
    let digest = to_hex(hashed.hash.finish().as_ref());
    if digest != layer.digest {
        return Err(wrong_digest(path, &layer.digest));
    }
    Ok(spooled.unwrap_or(layer.file))
}

/// Applies a layer: first what it takes away from those below, then what it adds, whatever the order in which it lists them.
fn apply(layer: &DataFile, number: usize, path: &Path, tree: &mut FileTree, found: &mut Findings) -> Result<()> {
    read_tar(layer, number, path, &mut |member| {
        let removed = match whiteout(&member) {
            None => Ok(()),
            Some(Whiteout::File(path)) => tree.remove(&path),
            Some(Whiteout::Children(path)) => tree.clear(&path),
        };
        removed.map_err(|why| Malformed::Archive(format!("{}: {why}", String::from_utf8_lossy(&member.path))))
    })?;
    read_tar(layer, number, path, &mut |member| if whiteout(&member).is_some() { Ok(()) } else { found.put(tree, member) })
}

/// What a member whose name begins with `.wh.` takes away.
enum Whiteout {
    File(Vec<u8>),
    /// All that a directory holds.
    Children(Vec<u8>),
}

fn whiteout(member: &Member) -> Option<Whiteout> {
    let path = member.path.strip_suffix(b"/").unwrap_or(&member.path);
    let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (directory, name) = path.split_at_checked(start)?;
    match name {
        b".wh..wh..opq" => Some(Whiteout::Children(directory.to_vec())),
        // Markers of aufs, of which nothing is kept.
        _ if name.starts_with(b".wh..wh.") => Some(Whiteout::File(path.to_vec())),
        _ => name.strip_prefix(b".wh.").filter(|name| !name.is_empty()).map(|name| Whiteout::File([directory, name].concat())),
    }
}

/// A stream whose bytes are hashed as they pass.
struct Hashed<R> {
    inner: R,
    hash: Context,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..bytes).unwrap_or_default());
        Ok(bytes)
    }
}

fn small_file(file: &DataFile) -> Result<Vec<u8>> {
    if file.bytes() > JSON_BYTES_MAX {
        return Err(refused(&file.path, "its manifest is larger than 4 MiB"));
    }
    let mut bytes = vec![0; file.bytes() as usize];
    let filled = read_full(&mut Reader::of(file), &mut bytes).map_err(Error::io("reading", &file.path))?;
    bytes.truncate(filled);
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| refused(path, format!("{name} is not what it should be: {error}")))
}

/// The 64 digits of a SHA-256 digest. Nothing else is used in a path.
fn hex_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wrong_digest(path: &Path, digest: &str) -> Error {
    refused(path, format!("the blob {digest} is damaged: its SHA-256 is another"))
}

fn refused(path: &Path, why: impl Into<String>) -> Error {
    Error::Source { path: path.to_owned(), why: why.into() }
}

/// Parses each kind of JSON, and the choice of an image.
pub(super) fn fuzz(bytes: &[u8]) {
    let path = Path::new("layout");
    if let Ok(index) = parse::<Index>(path, "index", bytes) {
        let _ = choose(path, index.manifests, &mut Vec::new());
    }
    let _ = parse::<Manifest>(path, "manifest", bytes)
        .map(|manifest| manifest.layers.iter().filter(|layer| hex_of(&layer.digest).is_some()).count());
    let _ = parse::<Vec<DockerImage>>(path, "manifest.json", bytes);
    let _ = parse::<DockerConfig>(path, "config", bytes);
}
