//! What can be said of a pack that is asked for before a source is opened, which may take minutes (a compressed archive is unpacked): its
//! parameters, its images' names, and whether the file may be written.

use std::fs;
use std::path::Path;

use super::build::{ImageSpec, PackOptions};
use super::format::IMAGES_MAX;
use crate::manifest::{self, check_image_name};
use crate::partial_file::{partial_path_of, refuse_target};
use crate::{Codec, Error, Result};

/// Looks whether `images` could be packed into the file `output`, as far as that shows without opening them.
///
/// # Errors
/// When a parameter is out of range, two images have one name, or `output` exists or is part of what is to be packed.
pub fn check(images: &[ImageSpec], output: &Path, options: &PackOptions) -> Result<()> {
    let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
    check_parameters(&names, options)?;
    refuse_own_source(images.iter().map(|image| image.path.as_path()), output)?;
    refuse_target(output, options.force)
}

pub(super) fn check_parameters<Name: AsRef<str>>(names: &[Name], options: &PackOptions) -> Result<()> {
    if names.is_empty() || names.len() > IMAGES_MAX {
        return Err(Error::Parameter(format!("a pack holds 1 to {IMAGES_MAX} images")));
    }
    if !manifest::chunk_pages_in_range(options.chunk_pages) {
        return Err(Error::Parameter("a chunk has 1 to 1024 pages".into()));
    }
    if options.codec == Codec::Zstd && !zstd::compression_level_range().contains(&options.level) {
        let range = zstd::compression_level_range();
        return Err(Error::Parameter(format!("zstd has levels {} to {}", range.start(), range.end())));
    }
    for (index, name) in names.iter().map(AsRef::as_ref).enumerate() {
        check_image_name(name)?;
        if names[..index].iter().any(|other| other.as_ref() == name) {
            return Err(Error::Parameter(format!("two images have the name {name}")));
        }
    }
    Ok(())
}

/// Refuses an output that would take the place of one of `sources`, whatever may be overwritten, or would be within one.
pub(crate) fn refuse_own_source<'a>(sources: impl IntoIterator<Item = &'a Path>, output: &Path) -> Result<()> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(parent), Some(name)) = (fs::canonicalize(parent), output.file_name()) else {
        // Creating it says why not.
        return Ok(());
    };
    // A symbolic link there would be replaced, and not what it leads to.
    let place = parent.join(name);
    for source in sources {
        let Ok(found) = fs::canonicalize(source) else { continue };
        if found == place || found == partial_path_of(&place) {
            return Err(Error::refused(
                output,
                format!("writing it would replace {}, which is to be read; name another file", source.display()),
            ));
        }
        if found.is_dir() && place.starts_with(&found) {
            return Err(Error::refused(output, format!("it is within {}, which is to be read; name a file elsewhere", source.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_pack_never_takes_the_place_of_what_is_packed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("web.raw"), "disk").unwrap();
        fs::write(path("db.partial"), "disk").unwrap();
        fs::create_dir(path("models")).unwrap();
        std::os::unix::fs::symlink("web.raw", path("link")).unwrap();
        let refused = |source: &str, output: PathBuf| refuse_own_source([path(source).as_path()], &output).is_err();
        assert!(refused("web.raw", path("web.raw")));
        assert!(refused("web.raw", path("models/../web.raw")), "by another path");
        assert!(refused("link", path("web.raw")), "by another name");
        assert!(refused("db.partial", path("db")), "the name that it has until it is complete");
        assert!(refused("models", path("models/fleet.pack")));
        assert!(!refused("web.raw", path("link")), "the link is replaced, not the image");
        assert!(!refused("models", path("models.pack")));
        assert!(!refused("web.raw", path("fleet.pack")));
        assert!(!refused("absent", path("absent")), "opening it says that it is not there");
    }
}
