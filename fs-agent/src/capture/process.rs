//! What /proc says of a writer.

use std::{
    fs::File,
    io::{self, Read},
};

use bywash_common::record::COMMAND_BYTES_MAX;

/// More than /proc/PID/stat or the head of /proc/PID/status up to Tgid can have.
const STAT_BYTES_MAX: u64 = 4096;

/// The process that a thread belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its arguments, each followed by a space.
    pub command: Vec<u8>,
}

/// What tells a thread from a later one of the same id, and from itself before an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    comm: Vec<u8>,
    /// When it started, in clock ticks since boot.
    started_ticks: u64,
}

/// What /proc/TID/stat says of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What tells it from others.
    pub fingerprint: Fingerprint,
    /// Whether its process has other threads.
    pub has_siblings: bool,
}

/// What /proc/TID/stat says. Waits for nobody.
///
/// # Errors
/// If there is no such thread.
pub fn stat(thread: u32) -> io::Result<Stat> {
    parse_stat(&head(&format!("/proc/{thread}/stat"), STAT_BYTES_MAX)?)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Finds out about the process that `thread` belongs to. Waits while another thread of that changes its mappings.
///
/// # Errors
/// If there is no such thread.
pub fn process(thread: u32, fingerprint: &Fingerprint) -> io::Result<Process> {
    let status = head(&format!("/proc/{thread}/status"), STAT_BYTES_MAX)?;
    let pid = parse_tgid(&status).ok_or(io::ErrorKind::InvalidData)?;
    let arguments = head(&format!("/proc/{pid}/cmdline"), COMMAND_BYTES_MAX as u64)?;
    Ok(Process { pid, command: command_line(arguments, &fingerprint.comm) })
}

fn head(path: &str, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    File::open(path)?.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The process that `thread` belongs to, by its name alone. Waits for nobody.
///
/// # Errors
/// If there is no such thread.
pub fn process_by_name(thread: u32, fingerprint: &Fingerprint) -> io::Result<Process> {
    let status = head(&format!("/proc/{thread}/status"), STAT_BYTES_MAX)?;
    let pid = parse_tgid(&status).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Process { pid, command: command_line(Vec::new(), &fingerprint.comm) })
}

/// comm, the 20th and the 22nd field of `pid (comm) state ...`. comm may hold anything, parentheses too.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let begin = stat.iter().position(|b| *b == b'(')? + 1;
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // The first behind comm is the third.
    let mut fields = rest.split_ascii_whitespace().skip(20 - 3);
    let threads: u64 = fields.next()?.parse().ok()?;
    let started_ticks = fields.nth(22 - 21)?.parse().ok()?;
    let fingerprint = Fingerprint { comm: stat.get(begin..end)?.to_vec(), started_ticks };
    Some(Stat { fingerprint, has_siblings: threads > 1 })
}

fn parse_tgid(status: &[u8]) -> Option<u32> {
    let line = status.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Arguments as records carry them. A kernel thread has none and goes by its name.
fn command_line(mut arguments: Vec<u8>, comm: &[u8]) -> Vec<u8> {
    if arguments.is_empty() {
        return [b"[", comm, b"] "].concat();
    }
    for byte in arguments.iter_mut().filter(|byte| **byte == 0) {
        *byte = b' ';
    }
    // A process may have overwritten its arguments without a zero at the end.
    if !arguments.ends_with(b" ") {
        arguments.push(b' ');
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name_holds() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        for comm in ["sh", "a b", "x) R 1 (y", ")))"] {
            let stat = format!("17 ({comm}) S {}\n", fields.join(" "));
            let fingerprint = Fingerprint { comm: comm.into(), started_ticks: 22 };
            let expected = Stat { fingerprint, has_siblings: true };
            assert_eq!(parse_stat(stat.as_bytes()), Some(expected), "{comm}");
        }
        for stat in ["", "17 sh S", "17 (sh", "17 (sh) S 1 2 3"] {
            assert_eq!(parse_stat(stat.as_bytes()), None, "{stat}");
        }
    }

    #[test]
    fn the_process_is_found_in_status() {
        assert_eq!(parse_tgid(b"Name:\tx\nUmask:\t0022\nTgid:\t4711\nNgid:\t0\n"), Some(4711));
        assert_eq!(parse_tgid(b"Name:\tTgid: 1\n"), None);
    }

    #[test]
    fn each_argument_is_followed_by_a_space() {
        assert_eq!(command_line(b"bash\0-c\0echo\0".to_vec(), b"bash"), b"bash -c echo ");
        assert_eq!(command_line(b"nginx: worker process".to_vec(), b"nginx"), b"nginx: worker process ");
        assert_eq!(command_line(Vec::new(), b"kworker/0:1"), b"[kworker/0:1] ");
    }

    #[test]
    fn a_thread_leads_to_its_process() {
        let found = std::thread::spawn(|| {
            let thread = nix::unistd::gettid().as_raw().cast_unsigned();
            (thread, process(thread, &stat(thread).unwrap().fingerprint).unwrap())
        });
        let (thread, found) = found.join().unwrap();
        assert_eq!(found.pid, std::process::id());
        assert_ne!(found.pid, thread);
        let mine: Vec<u8> = std::env::args().flat_map(|a| [a.into_bytes(), b" ".to_vec()].concat()).collect();
        assert_eq!(found.command, mine);
    }
}
