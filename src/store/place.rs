//! Where the store lies, and that it has one daemon only.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;

/// The store's file within the state directory.
pub const FILE: &str = "whystall.db";
const LOCK: &str = "whystall.lock";

/// `$STATE_DIRECTORY`, else `/var/lib/whystall` as root, else `$XDG_STATE_HOME/whystall` (`~/.local/state/whystall`).
pub fn state_dir(env: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let given = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(list) = env("STATE_DIRECTORY").filter(|v| !v.is_empty()) {
        // systemd separates several by colons; ours is the first.
        return list.to_string_lossy().split(':').next().map(PathBuf::from);
    }
    if root {
        return Some("/var/lib/whystall".into());
    }
    // The XDG base directory specification: what is not absolute is ignored.
    let base = given("XDG_STATE_HOME").filter(|p| p.is_absolute());
    base.or_else(|| Some(given("HOME").filter(|p| p.is_absolute())?.join(".local/state")))
        .map(|b| b.join("whystall"))
}

pub(super) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|source| StoreError::Io { path: dir.into(), source })
}

/// Makes the directory and takes its lock, which lasts as long as the file is open.
pub(super) fn prepare(dir: &Path) -> Result<File, StoreError> {
    make_dir(dir)?;
    let path = dir.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(&path);
    let file = file.map_err(|source| StoreError::Io { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.into())),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_found() {
        let at = |pairs: &[(&str, &str)], root| {
            let pairs = pairs.to_vec();
            state_dir(move |k| pairs.iter().find(|(n, _)| *n == k).map(|(_, v)| v.into()), root)
        };
        let is = |p: &str| Some(PathBuf::from(p));
        assert_eq!(at(&[("STATE_DIRECTORY", "/s:/t"), ("HOME", "/h")], true), is("/s"));
        assert_eq!(at(&[("XDG_STATE_HOME", "/x")], true), is("/var/lib/whystall"));
        assert_eq!(at(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")], false), is("/x/whystall"));
        assert_eq!(at(&[("XDG_STATE_HOME", "x"), ("HOME", "/h")], false), is("/h/.local/state/whystall"));
        assert_eq!(at(&[], false), None);
    }
}
