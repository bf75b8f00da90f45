//! Writers in processes of their own, and what they measured.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Process, program, wait};

/// What one writer shall do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Which writer this is: part of each line that it writes.
    pub id: u32,
    /// The files that it appends to in turn.
    pub files: Vec<PathBuf>,
    /// How many writes.
    pub count: u64,
    /// Bytes of each.
    pub bytes: usize,
    /// Writes per second; 0 for as fast as it can.
    pub rate: u32,
}

/// What a writer says that it did.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// How many writes have returned all their bytes.
    pub written: u64,
    /// What ended it early.
    pub error: Option<String>,
    /// The latency of half of the writes was at most this.
    pub p50: Duration,
    /// That of 99 of 100.
    pub p99: Duration,
    /// That of all.
    pub max: Duration,
}

/// A running writer.
pub struct Writer {
    process: Process,
}

impl Load {
    /// Starts the writer.
    pub fn start(&self, log_directory: &Path) -> Writer {
        let mut arguments = vec![
            format!("--id={}", self.id).into(),
            format!("--count={}", self.count).into(),
            format!("--bytes={}", self.bytes).into(),
            format!("--rate={}", self.rate).into(),
        ];
        arguments.extend(self.files.iter().map(|file| file.clone().into_os_string()));
        let name = format!("writer-{}", self.id);
        // An earlier one of this name must not lend its report.
        drop(std::fs::remove_file(log_directory.join(format!("{name}.out"))));
        let process = Process::spawn(&name, &program("writer"), arguments, log_directory, Signal::SIGKILL);
        Writer { process }
    }

    /// The bytes of the writer's i-th write.
    pub fn line(&self, i: u64) -> Vec<u8> {
        line(self.id, i, self.bytes)
    }

    /// The files and the bytes that one writer puts into each by `written` writes.
    pub fn expected(&self, written: u64) -> Vec<(PathBuf, Vec<u8>)> {
        let mut contents = vec![Vec::new(); self.files.len()];
        for i in 0..written {
            let turn = usize::try_from(i).expect("a count that fits") % self.files.len();
            contents[turn].extend(self.line(i));
        }
        self.files.iter().cloned().zip(contents).collect()
    }
}

impl Writer {
    /// Whether it still writes.
    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Ends it after the write that is under way.
    #[track_caller]
    pub fn stop(self) -> LoadReport {
        self.process.signal(Signal::SIGTERM);
        self.finish(wait::TIMEOUT)
    }

    /// Waits until it is done.
    #[track_caller]
    pub fn finish(mut self, within: Duration) -> LoadReport {
        let status = self.process.wait(within);
        let text = self.process.stdout();
        let json: Value = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("the writer ({status}) left no report: {e}: {text}"));
        let time = |key: &str| Duration::from_nanos(json[key].as_u64().expect("a latency"));
        LoadReport {
            written: json["written"].as_u64().expect("a count"),
            error: json["error"].as_str().map(str::to_owned),
            p50: time("p50_ns"),
            p99: time("p99_ns"),
            max: time("max_ns"),
        }
    }
}

impl LoadReport {
    /// Panics unless everything was written.
    ///
    /// # Panics
    /// With the error that the writer met.
    #[track_caller]
    pub fn assert_complete(&self, load: &Load) {
        assert_eq!((self.written, self.error.as_deref()), (load.count, None), "a write failed");
    }
}

/// The bytes of a writer's i-th write: who and which, filled up to the wanted length and ended by a newline.
pub fn line(id: u32, i: u64, bytes: usize) -> Vec<u8> {
    let mut line = format!("{id} {i:09} ").into_bytes();
    line.resize(bytes.saturating_sub(1), b'x');
    line.push(b'\n');
    line
}

/// Bytes that look random, the same for the same seed: NUL, non-UTF-8 and all others among them.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}
