//! How many instructions the hot paths take, counted by callgrind: figures that do not depend on what else the machine
//! does. `make instructions` compares them with those in `accepted.toml`.
//!
//! ```text
//! bywash-instructions check|accept    counts all, and compares, or writes the table
//! bywash-instructions run NAME        what callgrind runs: one benchmark, [`ROUNDS`] times
//! ```
//!
//! The kernel's instructions are not counted, nor are those outside of [`bywash_counted_part`].

mod benchmarks;
/// What the encoders know of the publisher's other rooms.
mod delivery {
    pub use crate::event_id::EVENT_ID_BYTES_MAX;
}
#[allow(dead_code, unused_imports, reason = "the publisher has more use for it")]
#[path = "../../../publisher/src/encode/mod.rs"]
mod encode;
#[allow(dead_code, reason = "only the longest id's length is used")]
#[path = "../../../publisher/src/delivery/id.rs"]
mod event_id;

use std::{
    env::{self, current_exe},
    ffi::OsStr,
    fs,
    io::ErrorKind,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use benchmarks::{BENCHMARKS, Benchmark};
use bywash_instructions::{MORE_PERCENT_MAX, Table};

/// How often each is run before anything is counted: buffers have grown by then.
const WARM_UP_ROUNDS: u32 = 16;
/// How often each is run and counted; the table has a single run's.
const ROUNDS: u32 = 64;

/// The C library chooses how to copy by the sizes of the caches, and has long copies done by an instruction that callgrind
/// counts byte by byte.
const TUNABLES: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824:\
                        glibc.cpu.x86_non_temporal_threshold=1073741824";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["run", name] => find(name).and_then(run),
        ["check"] => check(),
        ["accept"] => accept(),
        _ => Err(anyhow::anyhow!("usage: bywash-instructions check|accept|run NAME")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What callgrind counts: calls of this and what they call. No other function has a name with this one's in it.
#[inline(never)]
fn bywash_counted_part(part: &mut dyn FnMut()) {
    part();
}

fn find(name: &str) -> Result<&'static Benchmark> {
    BENCHMARKS.iter().find(|benchmark| benchmark.name == name).with_context(|| format!("no benchmark {name}"))
}

fn run(benchmark: &Benchmark) -> Result<()> {
    let mut bench = (benchmark.make)()?;
    (0..WARM_UP_ROUNDS).try_for_each(|_| bench.round(&mut |part| part()))?;
    (0..ROUNDS).try_for_each(|_| bench.round(&mut bywash_counted_part))
}

fn check() -> Result<()> {
    if !may_count() {
        return Ok(());
    }
    let (accepted, counted) = (Table::load()?, count_all()?);
    ensure!(
        accepted.holds(&counted),
        "a path takes {}% more instructions than accepted, or there is no count of it. If that is as it should be: \
         make instructions ACCEPT=1",
        MORE_PERCENT_MAX
    );
    Ok(())
}

fn accept() -> Result<()> {
    if !may_count() {
        bail!("nothing was counted");
    }
    count_all()?.store()
}

/// Whether counts of this machine can be compared with those of others: who is no root goes other ways, and so does who has
/// other instructions.
fn may_count() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_instructions = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("pclmulqdq");
    #[cfg(not(target_arch = "x86_64"))]
    let has_instructions = false;
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !has_instructions || !is_root {
        println!("skipped: the accepted counts are those of root on an x86-64 processor with AVX2");
    }
    has_instructions && is_root
}

fn count_all() -> Result<Table> {
    let counts = BENCHMARKS.iter().map(|benchmark| Ok((benchmark.name.to_owned(), count(benchmark.name)?)));
    counts.collect::<Result<_>>().map(Table)
}

/// The instructions of one round of a benchmark.
fn count(name: &str) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("callgrind.out");
    let program = current_exe()?;
    // A bare environment: its length moves the stack.
    let status = Command::new("valgrind")
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("GLIBC_TUNABLES", TUNABLES)
        .args([
            "--quiet",
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=*bywash_counted_part*",
        ])
        .arg([OsStr::new("--callgrind-out-file="), out.as_os_str()].join(OsStr::new("")))
        .arg(program)
        .args(["run", name])
        .stdout(Stdio::null())
        .status();
    let status = match status {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no valgrind here: make setup installs it")
        }
        status => status?,
    };
    ensure!(status.success(), "{name} under callgrind: {status}");
    Ok(total_of(&out).with_context(|| format!("what callgrind says of {name}"))? / u64::from(ROUNDS))
}

/// The total in callgrind's file.
fn total_of(out: &Path) -> Result<u64> {
    let text = fs::read_to_string(out)?;
    let total = text.lines().rev().find_map(|line| line.strip_prefix("totals: ")).context("no total")?;
    let total = total.trim().parse()?;
    ensure!(total > 0, "nothing was counted");
    Ok(total)
}
