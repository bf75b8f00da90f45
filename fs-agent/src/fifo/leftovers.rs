//! What fifo2kinesis could not deliver lies in files of its failed-attempts directory. It wrote their lines to its FIFO
//! again, now and then; so does this, once, at the start.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use bywash_common::config::Config;
use rustix::io::ioctl_fionread;

/// What its files are called: this, the 14 digits of a time, `-` and 8 letters.
const PREFIX: &str = "fifo2kinesis-";
const TIME_DIGITS: usize = 14;
const LETTERS: usize = 8;

/// How often it is looked whether the FIFO has been read out.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Has a thread send what lies in `failed.dir`, if that is configured and there is one FIFO through which it came.
pub fn send(config: &Config) {
    let Some(dir) = &config.failed.dir else { return };
    let files = match files_in(dir) {
        Ok(files) if files.is_empty() => return,
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            let shown = dir.display();
            return tracing::warn!("cannot look for what fifo2kinesis has left in {shown}: {error}");
        }
    };
    let [fifo] = &config.fifos[..] else {
        return tracing::warn!(
            "fifo2kinesis has left {} files in {}, and there is not one FIFO through which they came: write their lines to \
             the right one, and remove them",
            files.len(),
            dir.display()
        );
    };
    let path = fifo.path.clone();
    let spawned =
        thread::Builder::new().name("leftovers".to_owned()).spawn(move || send_files(&files, &path));
    if let Err(error) = spawned {
        tracing::warn!("what fifo2kinesis has left waits for the next start: cannot start a thread: {error}");
    }
}

/// Its files, the oldest first.
fn files_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_its_name) && entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn is_its_name(name: &str) -> bool {
    let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(time, letters)| {
        let is_time = time.len() == TIME_DIGITS && time.bytes().all(|b| b.is_ascii_digit());
        is_time && letters.len() == LETTERS && letters.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

fn send_files(files: &[PathBuf], fifo: &Path) {
    for file in files {
        let shown = file.display();
        match send_file(file, fifo) {
            Ok(lines) => tracing::info!(
                "{shown}: {lines} lines that fifo2kinesis had left go through {}",
                fifo.display()
            ),
            Err(error) => {
                return tracing::warn!(
                    "{shown}, which fifo2kinesis has left, cannot be sent: {error}; it is tried again at the next start"
                );
            }
        }
    }
}

/// Writes the file's lines to the FIFO, and removes the file once they were read there; gives how many they are.
fn send_file(file: &Path, fifo: &Path) -> io::Result<usize> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let content = File::options().read(true).custom_flags(no_follow).open(file)?;
    // Somebody reads it: this process.
    let mut pipe = File::options().write(true).open(fifo)?;
    if !pipe.metadata()?.file_type().is_fifo() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is no FIFO any more", fifo.display()),
        ));
    }
    let mut content = BufReader::new(content);
    let (mut line, mut lines) = (Vec::new(), 0);
    // Line by line: what others write comes between lines.
    while content.read_until(b'\n', &mut line)? > 0 {
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        pipe.write_all(&line)?;
        line.clear();
        lines += 1;
    }
    while ioctl_fionread(&pipe)? > 0 {
        thread::sleep(LOOK_INTERVAL);
    }
    fs::remove_file(file)?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_files_are_known_by_their_names_and_no_others() {
        assert!(is_its_name("fifo2kinesis-20260101000000-abcdefgh"));
        for name in [
            "fifo2kinesis-",
            "fifo2kinesis-2026-abcdefgh",
            "fifo2kinesis-20260101000000-abc",
            "x",
            "letters.json",
        ] {
            assert!(!is_its_name(name), "{name}");
        }
    }
}
