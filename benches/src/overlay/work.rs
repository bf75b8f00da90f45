//! What is done in each directory, and how long it takes.

use std::{
    fs::{self, File},
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use super::subject::Subject;

const SIZES: [usize; 5] = [1, 128, 4 << 10, 128 << 10, 1 << 20];
/// Length of the file that is read.
const FILE_BYTES: usize = 64 << 20;
/// Bytes that one measurement moves at most, and operations that it does at most.
const ROUND_BYTES: usize = 64 << 20;
const ROUND_OPERATIONS: usize = 2_000;
/// Files of one measurement of names.
const FILES: usize = 500;
/// Files in the directory that is listed.
const LISTED_FILES: usize = 2_000;

/// How long filesystems in user space have the kernel remember attributes: ours and its peers the same.
const CACHED_FOR: Duration = Duration::from_millis(1100);

const READ: &str = "to-be-read";
const LISTED: &str = "to-be-listed";

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Writes of so many bytes into a new file.
    Write(usize),
    /// Reads of so many bytes from the page cache, in order.
    ReadWarm(usize),
    /// The same at random places.
    ReadRandom(usize),
    /// Reads from the disk.
    ReadCold(usize),
    /// Makes files.
    Create,
    /// Looks at them.
    Stat,
    /// Removes them.
    Delete,
    /// Lists a directory.
    List,
    /// Lists it and looks at each entry.
    ListLong,
}

/// Everything that is measured.
pub fn all() -> Vec<Work> {
    let sized = |work: fn(usize) -> Work| SIZES.into_iter().map(work);
    let mut works: Vec<Work> = sized(Work::Write).chain(sized(Work::ReadWarm)).collect();
    works.push(Work::ReadRandom(4 << 10));
    match fs::write("/proc/sys/vm/drop_caches", "1") {
        Ok(()) => works.extend(sized(Work::ReadCold)),
        Err(error) => println!("skipped cold reads: the caches cannot be dropped: {error}"),
    }
    works.extend([Work::Create, Work::Stat, Work::List, Work::ListLong, Work::Delete]);
    works
}

/// Makes in a bare directory what is read later.
///
/// # Panics
/// If there is no room.
pub fn prepare(directory: &Path) {
    fs::write(directory.join(READ), vec![0x5a; FILE_BYTES]).unwrap();
    let listed = directory.join(LISTED);
    fs::create_dir(&listed).unwrap();
    (0..LISTED_FILES).for_each(|i| drop(File::create(listed.join(format!("file {i}"))).unwrap()));
}

impl Work {
    /// For people.
    pub fn name(self) -> String {
        let sized = |what: &str, size: usize| match size {
            1048576.. => format!("{what} {} MiB", size >> 20),
            1024.. => format!("{what} {} KiB", size >> 10),
            _ => format!("{what} {size} B"),
        };
        match self {
            Self::Write(size) => sized("write", size),
            Self::ReadWarm(size) => sized("read warm", size),
            Self::ReadRandom(size) => sized("read random", size),
            Self::ReadCold(size) => sized("read cold", size),
            // Each needs what the one before it leaves: `--only file` runs all three.
            Self::Create => "create a file".to_owned(),
            Self::Stat => "stat a file".to_owned(),
            Self::Delete => "delete a file".to_owned(),
            Self::List => "readdir, an entry".to_owned(),
            Self::ListLong => "readdir and stat".to_owned(),
        }
    }

    /// Does it, and gives microseconds for one operation.
    ///
    /// # Panics
    /// If something fails.
    pub fn measure(self, subject: &Subject) -> f64 {
        let directory = subject.directory.as_path();
        match self {
            Self::Write(size) => write(directory, size),
            Self::ReadWarm(size) => {
                // Once through this mount, so that what it caches is there.
                read(directory, size, sequential);
                read(directory, size, sequential)
            }
            Self::ReadRandom(size) => {
                read(directory, 128 << 10, sequential);
                read(directory, size, random)
            }
            Self::ReadCold(size) => {
                fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
                read(directory, size, sequential)
            }
            Self::Create => each_file(directory, |path| drop(File::create_new(path).unwrap())),
            Self::Stat => each_file(directory, |path| {
                black_box(fs::metadata(path).unwrap());
            }),
            Self::Delete => each_file(directory, |path| fs::remove_file(path).unwrap()),
            Self::List => list(directory, |_| {}),
            Self::ListLong => {
                // What was learned with the last list is forgotten by then.
                std::thread::sleep(CACHED_FOR);
                list(directory, |entry| {
                    black_box(entry.metadata().unwrap());
                })
            }
        }
    }
}

fn operations(size: usize) -> usize {
    (ROUND_BYTES / size).min(ROUND_OPERATIONS)
}

fn micros(begin: Instant, operations: usize) -> f64 {
    begin.elapsed().as_secs_f64() * 1e6 / operations as f64
}

fn write(directory: &Path, size: usize) -> f64 {
    let path = directory.join("to-be-written");
    let file = File::create(&path).unwrap();
    let bytes = vec![0x5a; size];
    let begin = Instant::now();
    for i in 0..operations(size) {
        file.write_all_at(&bytes, (i * size) as u64).unwrap();
    }
    let figure = micros(begin, operations(size));
    drop(file);
    fs::remove_file(path).unwrap();
    figure
}

fn read(directory: &Path, size: usize, place: impl Fn(usize, usize) -> u64) -> f64 {
    let file = File::open(directory.join(READ)).unwrap();
    let mut bytes = vec![0; size];
    let begin = Instant::now();
    for i in 0..operations(size) {
        file.read_exact_at(&mut bytes, place(i, size)).unwrap();
        black_box(&bytes);
    }
    micros(begin, operations(size))
}

fn sequential(i: usize, size: usize) -> u64 {
    (i * size % FILE_BYTES) as u64
}

/// The same places in each round.
fn random(i: usize, size: usize) -> u64 {
    let places = FILE_BYTES / size;
    (i.wrapping_mul(2_654_435_761) % places * size) as u64
}

fn each_file(directory: &Path, act: impl Fn(&Path)) -> f64 {
    let paths: Vec<_> = (0..FILES).map(|i| directory.join(format!("file {i}"))).collect();
    let begin = Instant::now();
    paths.iter().for_each(|path| act(path));
    micros(begin, FILES)
}

fn list(directory: &Path, look_at: impl Fn(&fs::DirEntry)) -> f64 {
    let begin = Instant::now();
    let entries = fs::read_dir(directory.join(LISTED)).unwrap();
    let listed = entries.inspect(|entry| look_at(entry.as_ref().unwrap())).count();
    assert_eq!(listed, LISTED_FILES);
    micros(begin, LISTED_FILES)
}
