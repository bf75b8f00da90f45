//! What /proc says of a writer.

use std::{
    fs::File,
    io::{self, Read},
};

use bywash_common::record::COMMAND_BYTES_MAX;
use rustix::io::{Errno, pread};

/// More than the head of /proc/PID/status up to Tgid, or /proc/PID/comm, can have.
const HEAD_BYTES_MAX: u64 = 4096;

/// More than /proc/TID/stat can have up to its 12th field: a name of 15 bytes, and numbers.
const STAT_BYTES_MAX: usize = 512;

/// The process that a thread belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its arguments, each followed by a space.
    pub command: Vec<u8>,
}

/// The program that a thread runs: what an exec replaces.
#[derive(Debug)]
pub struct Program(Witness);

/// What tells of an exec. Neither waits for anybody where the thread waits for an answer of this process, nor keeps memory
/// of the thread's process, but for a few KiB of the kernel's.
#[derive(Debug)]
enum Witness {
    /// /proc/TID/pagemap: once it is open it belongs to the memory that the process had then, and says whether that is still
    /// used, by the error for a read that is not aligned. Asked in 0.3 us. To open it takes CAP_SYS_PTRACE. Memory that
    /// others use as well (of a process that was made with CLONE_VM or vfork(2)) is used also after an exec.
    Memory(File),
    /// /proc/TID/task/TID/stat, and how many page faults the thread had. There is no exec without some, the arguments' own
    /// among them, and there are some without an exec. Asked in 3 us.
    Faults { stat: File, seen: u64 },
}

/// Whether a thread runs the program that it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// It does.
    TheSame,
    /// It does not.
    Another,
    /// Nobody knows.
    Perhaps,
}

impl Program {
    /// The program that `thread` runs.
    ///
    /// # Errors
    /// If there is no such thread.
    pub fn of(thread: u32) -> io::Result<Self> {
        if let Ok(pagemap) = File::open(format!("/proc/{thread}/pagemap")) {
            let program = Self(Witness::Memory(pagemap));
            if program.runs() == Runs::TheSame {
                return Ok(program);
            }
        }
        Self::by_faults(thread)
    }

    fn by_faults(thread: u32) -> io::Result<Self> {
        let stat = File::open(format!("/proc/{thread}/task/{thread}/stat"))?;
        let seen = faults(&stat)?;
        Ok(Self(Witness::Faults { stat, seen }))
    }

    /// Whether it is still run.
    pub fn runs(&self) -> Runs {
        match &self.0 {
            Witness::Memory(pagemap) => match pread(pagemap, &mut [0; 1], 0) {
                Err(Errno::INVAL) => Runs::TheSame,
                _ => Runs::Another,
            },
            Witness::Faults { stat, seen } => match faults(stat) {
                Ok(now) if now == *seen => Runs::TheSame,
                Ok(_) => Runs::Perhaps,
                Err(_) => Runs::Another,
            },
        }
    }
}

fn faults(stat: &File) -> io::Result<u64> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let len = pread(stat, &mut bytes, 0)?;
    parse_faults(&bytes[..len]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The sum of the 10th and the 12th field of `pid (comm) state ...`: page faults that were served from memory and from a
/// disk. comm may hold anything, parentheses too.
fn parse_faults(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    // The first behind comm is the third.
    let mut fields = rest.split_ascii_whitespace().skip(10 - 3);
    let minor: u64 = fields.next()?.parse().ok()?;
    let major: u64 = fields.nth(12 - 11)?.parse().ok()?;
    Some(minor.wrapping_add(major))
}

/// The process that `thread` belongs to. Waits for nobody.
///
/// # Errors
/// If there is no such thread.
pub fn process_id(thread: u32) -> io::Result<u32> {
    let status = head(&format!("/proc/{thread}/status"), HEAD_BYTES_MAX)?;
    parse_tgid(&status).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The command line of the process that `thread` belongs to. Waits while anybody changes that one's mappings, which can
/// take as long as they like.
///
/// # Errors
/// If there is no such thread.
pub fn command_of(thread: u32) -> io::Result<Vec<u8>> {
    match head(&format!("/proc/{thread}/cmdline"), COMMAND_BYTES_MAX as u64)? {
        none if none.is_empty() => name_of(thread),
        arguments => Ok(command_line(arguments)),
    }
}

/// What `thread` is called, for a command line: for kernel threads, which have none. Waits for nobody.
///
/// # Errors
/// If there is no such thread.
pub fn name_of(thread: u32) -> io::Result<Vec<u8>> {
    let name = head(&format!("/proc/{thread}/comm"), HEAD_BYTES_MAX)?;
    Ok([b"[", name.strip_suffix(b"\n").unwrap_or(&name), b"] "].concat())
}

fn head(path: &str, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    File::open(path)?.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_tgid(status: &[u8]) -> Option<u32> {
    let line = status.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

/// Arguments as records carry them.
fn command_line(mut arguments: Vec<u8>) -> Vec<u8> {
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
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Command, Stdio},
    };

    #[test]
    fn faults_are_counted_whatever_the_name_holds() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        for comm in ["sh", "a b", "x) R 1 (y", ")))"] {
            let stat = format!("17 ({comm}) S {}\n", fields.join(" "));
            assert_eq!(parse_faults(stat.as_bytes()), Some(10 + 12), "{comm}");
        }
        for stat in ["", "17 sh S", "17 (sh", "17 (sh) S 1 2 3"] {
            assert_eq!(parse_faults(stat.as_bytes()), None, "{stat}");
        }
    }

    #[test]
    fn the_process_is_found_in_status() {
        assert_eq!(parse_tgid(b"Name:\tx\nUmask:\t0022\nTgid:\t4711\nNgid:\t0\n"), Some(4711));
        assert_eq!(parse_tgid(b"Name:\tTgid: 1\n"), None);
    }

    #[test]
    fn each_argument_is_followed_by_a_space() {
        assert_eq!(command_line(b"bash\0-c\0echo\0".to_vec()), b"bash -c echo ");
        assert_eq!(command_line(b"nginx: worker process".to_vec()), b"nginx: worker process ");
    }

    #[test]
    fn a_thread_leads_to_its_process_and_has_a_name_of_its_own() {
        let thread = std::thread::Builder::new().name("a) (b".to_owned());
        let found = thread.spawn(|| {
            let thread = nix::unistd::gettid().as_raw().cast_unsigned();
            (thread, process_id(thread).unwrap(), command_of(thread).unwrap(), name_of(thread).unwrap())
        });
        let (thread, process, command, name) = found.unwrap().join().unwrap();
        assert_eq!(process, std::process::id());
        assert_ne!(process, thread);
        let mine: Vec<u8> = std::env::args().flat_map(|a| [a.into_bytes(), b" ".to_vec()].concat()).collect();
        assert_eq!(command, mine);
        assert_eq!(name, b"[a) (b] ");
    }

    #[test]
    fn a_program_runs_until_the_process_executes_another_or_ends() {
        let script = "echo; read line; exec sh -c 'echo; read line'";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdin, mut stdout) =
            (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut wait_for_line = || stdout.read_line(&mut String::new()).unwrap();
        wait_for_line();
        // For the second one takes privilege.
        let programs = || [Program::by_faults(child.id()).unwrap(), Program::of(child.id()).unwrap()];
        let runs = |programs: &[Program; 2]| programs.each_ref().map(Program::runs);
        let first = programs();
        assert_eq!(runs(&first), [Runs::TheSame; 2]);
        stdin.write_all(b"\n").unwrap();
        wait_for_line();
        assert!(!runs(&first).contains(&Runs::TheSame));
        let second = programs();
        assert_eq!(runs(&second), [Runs::TheSame; 2]);
        stdin.write_all(b"\n").unwrap();
        child.wait().unwrap();
        assert_eq!(runs(&second), [Runs::Another; 2]);
        assert!(Program::of(u32::MAX).is_err());
    }
}
