//! `discus pack`: makes a pack of images.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use image::pack::{ImageSpec, PackOptions, build};

use super::pack_report::PackReport;
use super::progress;

/// Pack disk images and file trees into one file in which common data is stored once.
#[derive(Args)]
#[command(after_help = super::exit::HELP)]
pub(crate) struct PackArgs {
    /// The images: a name that receivers ask for, and a raw disk image, a block device or a directory.
    #[arg(required = true, value_name = "NAME=PATH", value_parser = parse_spec)]
    images: Vec<ImageSpec>,
    /// The pack to write. It appears under this name when it is complete.
    #[arg(short, long, value_name = "PACK")]
    output: PathBuf,
    /// Replace the output if it exists.
    #[arg(long)]
    force: bool,
    /// How chunks are compressed; one that would shrink by less than 2 % is stored as it is.
    #[arg(long, value_enum, default_value_t = CodecName::Zstd)]
    codec: CodecName,
    /// Compression level of zstd.
    #[arg(long, default_value_t = 3, allow_negative_numbers = true)]
    level: i32,
    /// Pages of 4 KiB in a full chunk, 1 to 1024.
    #[arg(long, default_value_t = image::CHUNK_PAGES_DEFAULT)]
    chunk_pages: u32,
    /// Print the result as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum CodecName {
    None,
    Zstd,
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
    let options = PackOptions {
        chunk_pages: args.chunk_pages,
        codec: match args.codec {
            CodecName::None => image::Codec::None,
            CodecName::Zstd => image::Codec::Zstd,
        },
        level: args.level,
        force: args.force,
        ..PackOptions::default()
    };
    let pack = progress::show(args.json, |progress| build(&args.images, &args.output, &options, progress));
    let pack = pack.with_context(|| format!("packing {}", args.output.display()))?;
    PackReport::of(&pack)?.print(args.json)?;
    Ok(ExitCode::SUCCESS)
}
