//! A resident's mappings, which live in a process of their own: what maps memory is not safe Rust.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::{Life, Part};

/// Maps a file to write to, and one to read. For each line that comes it stores into the one, has that written down now and then,
/// and looks whether all of both is as it was left, through the mappings and through read(2), with the pages thrown away before.
const PROGRAM: &str = r#"
import mmap, os, sys
PAGES, PAGE = 8, 4096
def opened(name, flags):
    return os.open(os.path.join(sys.argv[1], name), flags | os.O_CREAT, 0o644)
stored, still = opened("mapped-stored", os.O_RDWR), opened("mapped-still", os.O_RDWR)
os.ftruncate(stored, PAGES * PAGE)
text = bytes(i * 7 % 251 for i in range(PAGES * PAGE))
assert os.pwrite(still, text, 0) == len(text)
os.close(still)
still = opened("mapped-still", os.O_RDONLY)
writes = mmap.mmap(stored, PAGES * PAGE)
reads = mmap.mmap(still, PAGES * PAGE, mmap.MAP_SHARED, mmap.PROT_READ)
expected = bytearray(PAGES * PAGE)
def look(n):
    os.posix_fadvise(still, 0, 0, os.POSIX_FADV_DONTNEED)
    reads.madvise(mmap.MADV_DONTNEED)
    at = n % PAGES * PAGE
    if reads[at:at + PAGE] != text[at:at + PAGE]: return "the mapping for reading has other bytes"
    if writes[at:at + PAGE] != expected[at:at + PAGE]: return "the mapping for writing has other bytes"
    if os.pread(stored, PAGE, at) != expected[at:at + PAGE]: return "read(2) gives other bytes than were stored"
    return "fine"
print("settled", flush=True)
for n, line in enumerate(sys.stdin):
    try:
        at = n * 613 % (PAGES * PAGE - 8)
        writes[at:at + 8] = expected[at:at + 8] = n.to_bytes(8, "little")
        if n % 8 == 7: writes.flush()
        print(look(n), flush=True)
    except Exception as error:
        print(error, flush=True)
os.fsync(stored)
os.posix_fadvise(stored, 0, 0, os.POSIX_FADV_DONTNEED)
whole = open(os.path.join(sys.argv[1], "mapped-stored"), "rb").read()
print("fine" if whole == expected else "other bytes are in the file than were stored", flush=True)
"#;

/// The process.
struct Mapper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Mapper {
    fn start(life: &Life) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(&life.settings.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut mapper = Self { child, input, output: BufReader::new(output) };
        assert_eq!(mapper.answer().expect("an answer"), "settled");
        mapper
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self) -> io::Result<String> {
        self.input.write_all(b"\n")?;
        self.answer()
    }
}

/// Stores into a mapping, and reads others.
pub fn map(life: &Life, part: &mut Part, _: u64) {
    let mut mapper = Mapper::start(life);
    life.repeat(|round| {
        if let Some(said) = part.time("store and look", || mapper.ask()) {
            part.check(said == "fine", || format!("round {round}: {said}"));
        }
    });
    let Mapper { mut child, input, mut output } = mapper;
    drop(input);
    let mut said = String::new();
    output.read_line(&mut said).expect("a last answer");
    part.check(said == "fine\n", || format!("at the end: {said}"));
    let status = child.wait().expect("a child");
    part.check(status.success(), || format!("who maps ended with {status}"));
}
