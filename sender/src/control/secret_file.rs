//! Files of the state directory that hold secrets of the server: made at its first start, for their owner only.

use super::ControlError;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What the permissions of a file must not have: anything for group and others.
const FORBIDDEN_MODE: u32 = 0o077;
/// Our own files have less than 1 KB; anything much larger is not one.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads the file `name` of `state_dir`; makes both when there is none, with the content that `generate` gives.
///
/// # Errors
/// [`ControlError`] when directory or file cannot be made or read, or others may read it.
pub(super) fn read_or_create(
    state_dir: &Path,
    name: &str,
    generate: impl FnOnce() -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, ControlError> {
    let path = state_dir.join(name);
    match read(&path) {
        Err(ControlError::StateFile { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    create(state_dir, name, generate).map_err(|source| state_error("create", &path, source))?;
    read(&path)
}

/// Reads a secret.
///
/// # Errors
/// [`ControlError`] when it cannot be read or others may read it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ControlError> {
    let read_error = |source| state_error("read", path, source);
    let file = File::open(path).map_err(read_error)?;
    let mode = file.metadata().map_err(read_error)?.permissions().mode();
    if mode & FORBIDDEN_MODE != 0 {
        return Err(ControlError::SecretExposed { path: path.to_path_buf(), mode: mode & 0o777 });
    }
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(read_error)?;
    Ok(content)
}

fn state_error(action: &'static str, path: &Path, source: io::Error) -> ControlError {
    ControlError::StateFile { action, path: path.to_path_buf(), source }
}

/// Writes a new file under a name of its own and links it to its right one: complete or not there, and of two senders that start at
/// once one makes it and both use it.
fn create(state_dir: &Path, name: &str, generate: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let content = generate()?;
    let partial = state_dir.join(format!("{name}.{}.partial", std::process::id()));
    // Left by a process of the same id that died in between.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let written = file.write_all(&content).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match std::fs::hard_link(&partial, state_dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    std::fs::remove_file(&partial)?;
    linked?;
    File::open(state_dir)?.sync_all()
}
