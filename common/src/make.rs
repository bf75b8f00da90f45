//! Making directories and FIFOs where others may interfere.
//!
//! A directory may belong to a user who does not belong to those who may have what is made in it. Between mkdir(2) or
//! mknod(2) and chown(2) such a user could put another file under the name, and have this process give that away. So what
//! is made is made in a new directory that nobody else may enter, gets its owner, group and mode there, and is then
//! moved to its place. Whatever is moved about meanwhile, only what was made here changes. The process's file mode mask does
//! not matter.
//!
//! A process that is killed in between leaves the directory behind, with a name that begins with `.bywash-`.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Uid, chmodat, chownat, fstat, linkat,
        mkdirat, mknodat, open, openat, renameat_with, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};
use uuid::Uuid;

/// How the directory is called in which something is made.
const PREFIX: &str = ".bywash-";

/// What is made is called this until it has its place.
const UNNAMED: &str = "new";

/// Others have nothing to do with it.
const CLOSED: Mode = Mode::RWXU;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOUND: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
}

/// Who may do what with what is made.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The permission bits, whatever the process's file mode mask.
    pub mode: u32,
    /// The user, if not this process's own.
    pub owner: Option<u32>,
    /// The group, if not the one that the directory around it gives.
    pub group: Option<u32>,
}

impl Access {
    /// What is this process's own, with a mode.
    pub const fn own(mode: u32) -> Self {
        Self { mode, owner: None, group: None }
    }
}

/// Makes `path`, in a directory that is there.
///
/// # Errors
/// `AlreadyExists` if there is something; otherwise as the system says.
pub fn make(kind: Kind, path: &Path, access: Access) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let parent = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    make_in(parent.as_fd(), name, kind, access)?;
    Ok(())
}

/// Makes the directory `path`, and those above it that are missing, all with the same access.
///
/// # Errors
/// `AlreadyExists` if one that is missing is put there by somebody else meanwhile, otherwise as the system says.
pub fn make_directories(path: &Path, access: Access) -> io::Result<()> {
    let is_missing = |path: &&Path| {
        !path.as_os_str().is_empty() && matches!(statat(CWD, *path, AtFlags::empty()), Err(Errno::NOENT))
    };
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    let Some(first) = missing.last() else { return Ok(()) };
    let (above, _) = split(first)?;
    let mut parent = open(above, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for made in missing.iter().rev() {
        // In the one that was made, wherever that is by now.
        let name = split(made)?.1;
        parent = match make_in(parent.as_fd(), name, Kind::Directory, access) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                own_directory(parent.as_fd(), name)?
            }
            made => made?,
        };
    }
    Ok(())
}

/// What another process of this user has made meanwhile.
fn own_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let found = openat(parent, name, DIRECTORY | OFlags::PATH, Mode::empty())?;
    if fstat(&found)?.st_uid == geteuid().as_raw() {
        Ok(found)
    } else {
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// The directory around a path, and the name in it.
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name))
}

/// Makes `name` in `parent`; gives it, opened with O_PATH.
fn make_in(parent: BorrowedFd<'_>, name: &OsStr, kind: Kind, access: Access) -> io::Result<OwnedFd> {
    if statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let workshop = Workshop::open(parent)?;
    let made = workshop.make(kind, access)?;
    workshop.move_out(kind, name)?;
    Ok(made)
}

/// A directory that nobody else may enter, for what is being made. Removed when it is dropped.
struct Workshop<'a> {
    parent: BorrowedFd<'a>,
    name: PathBuf,
    inside: OwnedFd,
}

impl<'a> Workshop<'a> {
    fn open(parent: BorrowedFd<'a>) -> io::Result<Self> {
        let name = PathBuf::from(format!("{PREFIX}{}", Uuid::new_v4().simple()));
        mkdirat(parent, &name, CLOSED)?;
        let inside = openat(parent, &name, DIRECTORY, Mode::empty())?;
        let workshop = Self { parent, name, inside };
        let found = fstat(&workshop.inside)?;
        let is_closed = !Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO);
        // Another one may be there by now: one that is closed as well does.
        if found.st_uid != geteuid().as_raw() || !is_closed {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "somebody else changes the directory around it meanwhile",
            ));
        }
        Ok(workshop)
    }

    fn make(&self, kind: Kind, access: Access) -> io::Result<OwnedFd> {
        let mut mode = Mode::from_raw_mode(access.mode & 0o7777);
        match kind {
            Kind::Directory => mkdirat(&self.inside, UNNAMED, CLOSED)?,
            Kind::Fifo => mknodat(&self.inside, UNNAMED, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
        }
        if access.owner.is_some() || access.group.is_some() {
            let (owner, group) = (access.owner.map(Uid::from_raw), access.group.map(Gid::from_raw));
            chownat(&self.inside, UNNAMED, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind == Kind::Directory {
            // What the directory around it has handed on.
            let found = statat(&self.inside, UNNAMED, AtFlags::SYMLINK_NOFOLLOW)?;
            mode |= Mode::from_raw_mode(found.st_mode) & Mode::SGID;
        }
        chmodat(&self.inside, UNNAMED, mode, AtFlags::empty())?;
        Ok(openat(&self.inside, UNNAMED, FOUND, Mode::empty())?)
    }

    /// Gives what was made its place, unless there is something by now.
    fn move_out(&self, kind: Kind, name: &OsStr) -> io::Result<()> {
        match renameat_with(&self.inside, UNNAMED, self.parent, name, RenameFlags::NOREPLACE) {
            // A filesystem that does not know the flag.
            Err(Errno::INVAL) if kind == Kind::Fifo => {
                linkat(&self.inside, UNNAMED, self.parent, name, AtFlags::empty())?;
            }
            Err(Errno::INVAL) => {
                // Takes the place of nothing but an empty directory.
                renameat_with(&self.inside, UNNAMED, self.parent, name, RenameFlags::empty())?;
            }
            moved => moved?,
        }
        Ok(())
    }
}

impl Drop for Workshop<'_> {
    fn drop(&mut self) {
        // What has its place is not there any more.
        for flags in [AtFlags::empty(), AtFlags::REMOVEDIR] {
            let _ = unlinkat(&self.inside, UNNAMED, flags);
        }
        let _ = unlinkat(self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt, symlink},
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_made_has_its_mode_and_nothing_else_is_left() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for (name, mode_of_it) in [("a", 0o777), ("b", 0o600), ("c", 0o622)] {
            make(Kind::Fifo, &path(name), Access::own(mode_of_it)).unwrap();
            assert!(fs::metadata(path(name)).unwrap().file_type().is_fifo());
            assert_eq!(mode(&path(name)), mode_of_it);
        }
        make_directories(&path("x/y/z"), Access::own(0o751)).unwrap();
        make_directories(&path("x/y/z"), Access::own(0o700)).unwrap();
        for made in ["x", "x/y", "x/y/z"] {
            assert_eq!(mode(&path(made)), 0o751, "{made}");
        }
        assert_eq!(
            (names(root.path()), names(&path("x"))),
            (["a", "b", "c", "x"].map(str::to_owned).into(), vec!["y".to_owned()])
        );
    }

    #[test]
    fn what_is_there_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("file"), "kept").unwrap();
        symlink(path("nowhere"), path("link")).unwrap();
        for name in ["file", "link"] {
            for kind in [Kind::Directory, Kind::Fifo] {
                let error = make(kind, &path(name), Access::own(0o700)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
            }
        }
        assert!(make_directories(&path("link/below"), Access::own(0o700)).is_err());
        assert_eq!(names(root.path()), ["file", "link"]);
        assert_eq!(fs::read(path("file")).unwrap(), b"kept");
    }

    #[test]
    fn a_group_is_handed_on_and_a_wanted_one_given() {
        if !geteuid().is_root() {
            return println!("skipped: only root can give files to any group");
        }
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::os::unix::fs::chown(root.path(), None, Some(4001)).unwrap();
        fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o2755)).unwrap();
        make_directories(&path("handed"), Access::own(0o750)).unwrap();
        assert_eq!((mode(&path("handed")), fs::metadata(path("handed")).unwrap().gid()), (0o2750, 4001));
        let access = Access { mode: 0o640, owner: Some(4000), group: Some(4002) };
        make(Kind::Fifo, &path("given"), access).unwrap();
        let given = fs::metadata(path("given")).unwrap();
        assert_eq!((mode(&path("given")), given.uid(), given.gid()), (0o640, 4000, 4002));
    }

    /// Whoever owns the directory moves everything about in it as fast as possible, and puts root's own files in the place of
    /// what is made.
    #[test]
    fn nothing_but_what_is_made_is_given_away() {
        const ROUNDS: usize = 300;
        if !geteuid().is_root() {
            return println!("skipped: only root has something to give away");
        }
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("secret"), "").unwrap();
        fs::create_dir(path("closed")).unwrap();
        make(Kind::Fifo, &path("roots"), Access::own(0o600)).unwrap();
        let victims = ["secret", "closed", "roots"];
        for victim in victims {
            fs::set_permissions(path(victim), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        }
        // Held, so that nothing else can have their inode numbers.
        let held = victims.map(|name| (name, open(path(name), FOUND, Mode::empty()).unwrap()));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Whatever comes changes places with one of root's.
                    for name in names(root.path()).iter().filter(|name| !victims.contains(&name.as_str())) {
                        for victim in victims {
                            let _ = renameat_with(CWD, path(name), CWD, path(victim), RenameFlags::EXCHANGE);
                            let _ = renameat_with(CWD, path(name), CWD, path(victim), RenameFlags::EXCHANGE);
                        }
                    }
                }
            });
            let access = Access { mode: 0o777, owner: Some(4000), group: Some(4000) };
            for _ in 0..ROUNDS {
                for (kind, name) in [(Kind::Fifo, "pipe"), (Kind::Directory, "directory")] {
                    let _ = make(kind, &path(name), access);
                    let _ = fs::remove_file(path(name));
                    let _ = fs::remove_dir(path(name));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        for (name, file) in held {
            let found = fstat(&file).unwrap();
            assert_eq!((found.st_uid, found.st_mode & 0o7777), (0, 0o700), "{name} was given away");
        }
    }
}
