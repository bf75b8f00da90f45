//! What can be asked of a disk, and what is made of that.

use std::{io, path::Path};

use bywash_common::make::Access;

use crate::faults::Fault;

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub enum Open {
    /// To read what is there.
    Read,
    /// To read and write what is there, or a new file.
    Create(Access),
    /// To write a file that is not there yet.
    CreateNew(Access),
    /// To write a file from its beginning, whatever it held.
    Truncate(Access),
}

/// Directories with files in them.
pub trait Disk: Send + Sync {
    /// The names in a directory, in no order.
    ///
    /// # Errors
    /// What the system says; a listing is never partial.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file; never one that a symbolic link leads to.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn Stored>>;

    /// Gives a file another name, in place of what had that.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Locks a directory among those that change what is in it; gives none if another has locked it. The lock ends with what
    /// is given.
    ///
    /// # Errors
    /// What the system says.
    fn try_lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Send>>>;

    /// Has the disk hold the names in a directory.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait Stored: Send {
    /// Reads at most as many bytes as the buffer has; 0 behind the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at least one of the bytes.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Cuts the file off.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// How many bytes it has.
    ///
    /// # Errors
    /// What the system says.
    fn bytes(&self) -> io::Result<u64>;

    /// Has the disk hold what was written.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;
}

/// Fills the buffer as far as the file goes, and gives how far that is.
///
/// # Errors
/// What the system says.
pub fn read_up_to_at(file: &dyn Stored, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Everything in a file.
///
/// # Errors
/// What the system says.
pub fn read_all(file: &dyn Stored) -> io::Result<Vec<u8>> {
    let bytes = usize::try_from(file.bytes()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; bytes];
    let read = read_up_to_at(file, &mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

/// Writes all of the bytes.
///
/// # Errors
/// What the system says; some of the bytes may then be written.
pub fn write_all_at(file: &dyn Stored, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes or replaces a file in one step that a crash does not divide: under another name, synced, renamed, and the
/// directory synced. `between` is called before the rename.
///
/// # Errors
/// What the system says; the file is then as it was.
pub fn replace(
    disk: &dyn Disk,
    path: &Path,
    content: &[u8],
    access: Access,
    between: impl FnOnce(),
) -> io::Result<()> {
    let temporary = path.with_extension(TEMPORARY);
    let replaced = (|| {
        let file = disk.open(&temporary, Open::Truncate(access))?;
        write_all_at(&*file, content, 0)?;
        if !Fault::DeadLettersUnsynced.is_back() {
            file.sync()?;
        }
        between();
        disk.rename(&temporary, path)
    })();
    if let Err(error) = replaced {
        // What cannot be removed now is at the next start.
        drop(disk.remove(&temporary));
        return Err(error);
    }
    disk.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// What the names of files end with that [`replace`] has not finished.
pub const TEMPORARY: &str = "tmp";
