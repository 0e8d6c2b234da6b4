//! The ways to store disk images, each as its users run it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::lab::Programs;
use crate::leavings::succeed;

/// Who stores the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// As it comes.
    Discus,
    /// With lz4.
    DiscusLz4,
    /// Without compression.
    DiscusNone,
    /// Content-defined chunks in one store for all images.
    Casync,
    /// One archive per image.
    TarZstd,
    /// Compressed qcow2, zstd clusters.
    QemuImg,
    /// Allocated blocks of the filesystem.
    Partclone,
}

impl Contestant {
    pub(super) const ALL: [Self; 7] =
        [Self::Discus, Self::DiscusLz4, Self::DiscusNone, Self::Casync, Self::TarZstd, Self::QemuImg, Self::Partclone];

    /// How it is run, for the report.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Discus => "`discus pack`, one pack",
            Self::DiscusLz4 => "`discus pack --codec lz4`, one pack",
            Self::DiscusNone => "`discus pack --codec none`, one pack",
            Self::Casync => "`casync make` of each image, one store",
            Self::TarZstd => "`tar --sparse \\| zstd -T0` of each image",
            Self::QemuImg => "`qemu-img convert -c -o compression_type=zstd` of each image",
            Self::Partclone => "`partclone \\| zstd -T0` of each image's partition",
        }
    }

    /// What stores one image, or for discus all: a shell script. `$T` stands before every program and notes its memory.
    fn script(self) -> &'static str {
        match self {
            Self::Discus => r#"$T "$DISCUS" pack --output "$OUT/pack" "${SPECS[@]}""#,
            Self::DiscusLz4 => r#"$T "$DISCUS" pack --codec lz4 --output "$OUT/pack" "${SPECS[@]}""#,
            Self::DiscusNone => r#"$T "$DISCUS" pack --codec none --output "$OUT/pack" "${SPECS[@]}""#,
            Self::Casync => r#"$T casync make --store="$OUT/store.castr" "$OUT/$NAME.caibx" "$IMAGE""#,
            Self::TarZstd => {
                r#"$T tar --create --sparse --directory="$(dirname "$IMAGE")" "$(basename "$IMAGE")" | $T zstd -q -T0 -o "$OUT/$NAME.tar.zst""#
            }
            Self::QemuImg => r#"$T qemu-img convert -c -O qcow2 -o compression_type=zstd "$IMAGE" "$OUT/$NAME.qcow2""#,
            Self::Partclone => {
                r#"set -- $(sfdisk --dump "$IMAGE" | sed -n 's/.*start= *\([0-9]*\), size= *\([0-9]*\).*/\1 \2/p' | head -n 1)
                loop=$(losetup --find --show --read-only --offset $(($1 * 512)) --sizelimit $(($2 * 512)) "$IMAGE")
                trap 'losetup --detach "$loop"' EXIT
                $T "partclone.$(blkid -o value -s TYPE "$loop")" -c -q -s "$loop" -o - -L /dev/null | $T zstd -q -T0 -o "$OUT/$NAME.pc.zst""#
            }
        }
    }

    /// Stores the images under `output`; returns the peak memory.
    pub(super) fn store(self, programs: &Programs, images: &[PathBuf], output: &Path, scratch: &Path) -> Result<u64> {
        let memory = scratch.join("memory");
        let name = |image: &Path| image.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut peak_bytes = 0;
        let together = matches!(self, Self::Discus | Self::DiscusLz4 | Self::DiscusNone);
        for image in images.iter().take(if together { 1 } else { images.len() }) {
            let mut command = Command::new("bash");
            // The images as NAME=PATH in "$@" for discus.
            command.args(["-e", "-o", "pipefail", "-c", &format!("SPECS=(\"$@\")\n{}", self.script()), "store"]);
            command.args(images.iter().map(|image| format!("{}={}", name(image), image.display())));
            command.env("T", format!("/usr/bin/time --quiet -f %M -a -o {}", memory.display()));
            command.env("DISCUS", &programs.discus).env("IMAGE", image).env("NAME", name(image)).env("OUT", output);
            succeed(&mut command).with_context(|| self.to_string())?;
            let kibibytes = fs::read_to_string(&memory).context("reading what time(1) wrote")?;
            peak_bytes = peak_bytes.max(kibibytes.lines().filter_map(|line| line.trim().parse::<u64>().ok()).sum::<u64>() * 1024);
            fs::remove_file(&memory)?;
        }
        Ok(peak_bytes)
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discus => "discus",
            Self::DiscusLz4 => "discus-lz4",
            Self::DiscusNone => "discus-none",
            Self::Casync => "casync",
            Self::TarZstd => "tar-zstd",
            Self::QemuImg => "qemu-img",
            Self::Partclone => "partclone",
        })
    }
}
