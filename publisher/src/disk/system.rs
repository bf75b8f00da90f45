//! The real disk.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, fchown},
    path::Path,
};

use nix::fcntl::OFlag;

use bywash_common::make::Access;

use super::interface::{Disk, Open, Stored};

/// The file systems of this machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn Stored>> {
        let mut options = OpenOptions::new();
        // Nobody is waited for who would have to open a FIFO as well.
        options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
        let access = match how {
            Open::Read => {
                options.read(true);
                None
            }
            Open::Create(access) => {
                options.read(true).write(true).create(true).truncate(false);
                Some(access)
            }
            Open::CreateNew(access) => {
                options.write(true).create_new(true);
                Some(access)
            }
            Open::Truncate(access) => {
                options.write(true).create(true).truncate(true);
                Some(access)
            }
        };
        if let Some(access) = access {
            options.mode(access.mode);
        }
        let file = options.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        if let (Open::CreateNew(_) | Open::Truncate(_), Some(Access { mode, owner, group })) = (how, access) {
            // Whatever the umask.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            fchown(&file, owner, group)?;
        }
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn try_lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Send>>> {
        let dir = File::open(dir)?;
        match dir.try_lock() {
            Ok(()) => Ok(Some(Box::new(dir))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl Stored for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
