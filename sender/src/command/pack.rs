//! `discus pack`: makes a pack of images.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{ArgGroup, Args, ValueEnum};
use image::Pack;
use image::pack::{ImageSpec, PackOptions, PreparedImage, build_prepared, edit};
use image::signature::SecretKey;
use image::source::{Format, SourceOptions};

use super::pack_report::{Note, PackReport};
use super::progress;

/// Pack disk images and file trees into one file in which common data is stored once; or add images to a pack, or remove some.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
#[command(group(ArgGroup::new("work").required(true).multiple(true).args(["images", "add", "remove"])))]
pub(crate) struct PackArgs {
    /// The images: a name that receivers ask for, and a disk image, a block device or a directory.
    #[arg(value_name = "NAME=PATH", value_parser = parse_spec, conflicts_with_all = ["add", "remove"])]
    images: Vec<ImageSpec>,
    /// The pack to write. It appears under this name, or takes the earlier one's place, when it is complete.
    #[arg(short, long, value_name = "PACK")]
    output: PathBuf,
    /// Add these images to PACK, which exists. Chunks that stay the same are not compressed again.
    #[arg(long, value_name = "NAME=PATH", value_parser = parse_spec, num_args = 1..)]
    add: Vec<ImageSpec>,
    /// Remove these images from PACK. With --add of the same name: replace them.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    remove: Vec<String>,
    /// Replace the output if it exists.
    #[arg(long)]
    force: bool,
    /// How chunks are compressed; one that would shrink by less than 2 % is stored as it is.
    #[arg(long, value_enum, default_value_t = CodecName::Zstd)]
    codec: CodecName,
    /// Compression level of zstd: 1 to 22, or below 0 for speed. [default: 3]
    #[arg(long, allow_negative_numbers = true)]
    level: Option<i32>,
    /// Pages of 4 KiB in a full chunk, 1 to 1024. [default: 64]
    #[arg(long, conflicts_with_all = ["add", "remove"])]
    chunk_pages: Option<u32>,
    /// Pack the free blocks of filesystems too.
    #[arg(long)]
    all_blocks: bool,
    /// Read a block device although it is mounted and may change.
    #[arg(long)]
    force_source: bool,
    /// Take image files for this, whatever they look like. Say `raw` where others can write to the first bytes of a raw image.
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Follow backing files that a qcow2 image names wherever they are, and not only beside it.
    #[arg(long)]
    backing_anywhere: bool,
    /// Sign the pack with this secret key: a file of `discus keygen` or `openssl genpkey -algorithm ed25519`.
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
    /// Print the result as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum CodecName {
    /// As it is: nothing to do for receivers.
    None,
    /// Less for receivers to do, and less saved: half against zstd's two thirds.
    Lz4,
    /// Smallest.
    Zstd,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    /// The bytes of a disk as they are.
    Raw,
    /// QEMU's image format.
    Qcow2,
    /// A raw disk, compressed with gzip, zstd or xz.
    CompressedRaw,
    /// A tar archive, perhaps compressed, or an OCI image in one.
    Archive,
}

fn parse_spec(text: &str) -> Result<ImageSpec, String> {
    let (name, path) = text.split_once('=').ok_or("an image is given as NAME=PATH, like web=web.raw")?;
    image::manifest::check_image_name(name).map_err(|error| error.to_string())?;
    if path.is_empty() {
        return Err("the path is missing".into());
    }
    Ok(ImageSpec { name: name.to_owned(), path: PathBuf::from(path) })
}

pub(crate) fn run(args: PackArgs) -> anyhow::Result<ExitCode> {
    let defaults = PackOptions::default();
    if args.level.is_some() && args.codec != CodecName::Zstd {
        return Err(image::Error::Parameter("only zstd has levels: --level needs --codec zstd".into()).into());
    }
    let options = PackOptions {
        chunk_pages: args.chunk_pages.unwrap_or(defaults.chunk_pages),
        codec: match args.codec {
            CodecName::None => image::Codec::None,
            CodecName::Lz4 => image::Codec::Lz4,
            CodecName::Zstd => image::Codec::Zstd,
        },
        level: args.level.unwrap_or(defaults.level),
        force: args.force,
        key: args.sign.as_deref().map(SecretKey::load).transpose()?.map(Arc::new),
        source: SourceOptions {
            all_blocks: args.all_blocks,
            force: args.force_source,
            format: args.format.map(|format| match format {
                FormatName::Raw => Format::Raw,
                FormatName::Qcow2 => Format::Qcow2,
                FormatName::CompressedRaw => Format::CompressedRaw,
                FormatName::Archive => Format::Archive,
            }),
            backing_anywhere: args.backing_anywhere,
        },
        ..defaults
    };
    if !args.images.is_empty() {
        image::pack::check(&args.images, &args.output, &options).with_context(|| format!("packing {}", args.output.display()))?;
    }
    let earlier = if args.images.is_empty() { Some(Arc::new(Pack::open(&args.output)?)) } else { None };
    let mut images = Vec::new();
    let mut notes = Vec::new();
    for spec in args.images.iter().chain(&args.add) {
        let image = PreparedImage::open(spec, options.source)?;
        for note in image.source.notes() {
            eprintln!("note: {}: {note}", spec.name);
            notes.push(Note { image: spec.name.clone(), note });
        }
        images.push(image);
    }
    let signed_before = earlier.as_ref().and_then(|earlier| earlier.proof().signed_by());
    let pack = progress::show(args.json, |progress| match earlier {
        Some(earlier) => edit(earlier, images, &args.remove, &options, progress),
        None => build_prepared(images, &args.output, &options, progress),
    });
    let pack = pack.with_context(|| format!("packing {}", args.output.display()))?;
    if let (Some(key), None) = (signed_before, &options.key) {
        eprintln!("note: {} was signed by {key} and is not any more; sign it with: discus sign --key KEY PACK", args.output.display());
    }
    PackReport::of(&pack)?.with_notes(notes).print(args.json)?;
    Ok(ExitCode::SUCCESS)
}
