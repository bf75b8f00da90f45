//! Directories that the publisher keeps something in between its runs: its own, closed, and one publisher's at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bywash_common::make::{Access, make_directories};
use nix::{
    fcntl::OFlag,
    unistd::{Gid, Group, Uid, geteuid},
};

/// Held by the publisher that writes to the directory.
const LOCK: &str = "publisher.lock";

/// A directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another publisher uses it.
    #[error("another publisher uses {}: give this one another {key}", path.display())]
    Held {
        /// The key that names it.
        key: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to someone whom this process does not trust.
    #[error(
        "{} belongs to uid {uid}, not to uid {}: refused; chown it or choose another {key}",
        path.display(),
        geteuid()
    )]
    Owner {
        /// The key that names it.
        key: &'static str,
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Anybody could put something there.
    #[error("everybody may write to {}: refused; chmod o-w it or choose another {key}", path.display())]
    Open {
        /// The key that names it.
        key: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// The group that shall have access does not exist.
    #[error(
        "the group `{0}` of ring.group does not exist: create it (groupadd --system {0}) or leave it out"
    )]
    Group(String),
    /// The system said no.
    #[error("cannot {action} {} ({key}): {error}", path.display())]
    Io {
        /// The key that names it.
        key: &'static str,
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A directory that this process alone writes to.
pub struct StateDir {
    /// Where it is.
    pub path: PathBuf,
    /// Who may read in it besides the owner.
    pub group: Option<u32>,
    _lock: File,
}

impl StateDir {
    /// Opens the directory that `key` names, and makes it if need be. It then has mode 0700, or 0750 with the group.
    ///
    /// # Errors
    /// A [`StateDirError`] if it cannot be used.
    pub fn open(key: &'static str, path: &Path, group: Option<&str>) -> Result<Self, StateDirError> {
        let failed = |action| {
            let path = path.to_owned();
            move |error| StateDirError::Io { key, action, path, error }
        };
        let gid = |name: &str| match Group::from_name(name) {
            Ok(Some(group)) => Ok(group.gid.as_raw()),
            _ => Err(StateDirError::Group(name.to_owned())),
        };
        let group = group.map(gid).transpose()?;
        if !path.exists() {
            let mode = if group.is_some() { 0o750 } else { 0o700 };
            make_directories(path, Access { mode, owner: None, group }).map_err(failed("create"))?;
        }
        let found = fs::metadata(path).map_err(failed("examine"))?;
        if found.uid() != geteuid().as_raw() && found.uid() != 0 {
            return Err(StateDirError::Owner { key, path: path.to_owned(), uid: found.uid() });
        }
        if found.mode() & 0o002 != 0 {
            return Err(StateDirError::Open { key, path: path.to_owned() });
        }
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(path.join(LOCK));
        let lock = opened.map_err(failed("write to"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), group, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::Held { key, path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed("lock")(error)),
        }
    }

    /// The mode of files in it: 0600, or 0640 with the group.
    pub fn file_mode(&self) -> u32 {
        if self.group.is_some() { 0o640 } else { 0o600 }
    }
}

/// The owner and the group of a publisher's directory, which `key` names, if it is another user's and this process is root: it has to
/// do no more there than he could. Who can replace the directory, or what is in it, by links would otherwise have root show,
/// change and remove files that are closed to him. None as well where there is no such directory.
///
/// # Errors
/// If it is a link that is not root's own; what the system says.
pub fn other_owner(key: &str, dir: &Path) -> anyhow::Result<Option<(Uid, Gid)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let path = || dir.display().to_string();
    let mut found = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.with_context(path)?,
    };
    if found.is_symlink() {
        if found.uid() != 0 {
            bail!(
                "{} is a link of uid {}, and root follows none: run this command as that user, or name the directory itself in {key}",
                path(),
                found.uid()
            );
        }
        found = match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.with_context(path)?,
        };
    }
    let owner = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    Ok(Some(owner).filter(|(uid, _)| !uid.is_root()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use super::*;

    #[test]
    fn root_follows_no_other_users_link_and_knows_whose_a_directory_is() {
        if !geteuid().is_root() {
            return println!("skipped: only root can give files away");
        }
        let parent = tempfile::tempdir().unwrap();
        let (dir, link) = (parent.path().join("dir"), parent.path().join("link"));
        assert_eq!(other_owner("spool.dir", &dir).unwrap(), None, "there is none");
        fs::create_dir(&dir).unwrap();
        assert_eq!(other_owner("spool.dir", &dir).unwrap(), None, "it is root's");
        symlink(&dir, &link).unwrap();
        lchown(&link, Some(7), Some(7)).unwrap();
        let refused = other_owner("spool.dir", &link).unwrap_err().to_string();
        assert!(refused.contains("link of uid 7") && refused.contains("spool.dir"), "{refused}");
        chown(&dir, Some(1), Some(2)).unwrap();
        lchown(&link, Some(0), Some(0)).unwrap();
        for path in [&dir, &link] {
            assert_eq!(other_owner("spool.dir", path).unwrap(), Some((1.into(), 2.into())));
        }
    }

    #[test]
    fn it_is_made_closed_and_held_by_one() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let first = StateDir::open("k", &path, None).unwrap();
        assert_eq!((fs::metadata(&path).unwrap().mode() & 0o777, first.file_mode()), (0o700, 0o600));
        let second = StateDir::open("k", &path, None);
        assert!(matches!(second, Err(StateDirError::Held { .. })));
        drop(first);
        StateDir::open("k", &path, None).unwrap();
    }

    #[test]
    fn those_above_it_are_the_groups_to_enter_as_well() {
        if !geteuid().is_root() {
            return println!("skipped: only root can give a directory to any group");
        }
        let parent = tempfile::tempdir().unwrap();
        let group = Group::from_gid(1.into()).unwrap().expect("a group with the number 1");
        StateDir::open("k", &parent.path().join("a/b"), Some(&group.name)).unwrap();
        for made in ["a", "a/b"] {
            let found = fs::metadata(parent.path().join(made)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.gid()), (0o750, 1), "{made}");
        }
    }

    #[test]
    fn one_that_anybody_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let Err(error) = StateDir::open("spool.dir", dir.path(), None) else { panic!("it was taken") };
        assert!(error.to_string().contains("spool.dir"), "{error}");
    }

    #[test]
    fn a_file_in_its_place_and_an_unknown_group_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(StateDir::open("k", &file.path().join("x"), None).is_err());
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            StateDir::open("k", dir.path(), Some("no-such-group")),
            Err(StateDirError::Group(_))
        ));
    }
}
