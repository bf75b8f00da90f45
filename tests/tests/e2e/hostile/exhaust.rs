//! To use up what others need: time, descriptors, blocks, memory.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use bywash_tests::harness::{
    Bywash, Capture, Process, Settings, mounts,
    process::{must_run, run},
    program, tree, wait,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::json;

use crate::hostile::{Ground, PRELUDE, assert_same, assert_works, by_nobody, is_left_out, nobody, python};

/// Processes that do something over and over until they are dropped.
struct Crowd(Vec<Child>);

impl Crowd {
    fn begin(count: usize, directory: &Path, lines: &str) -> Self {
        let one = |i: usize| {
            let mut command = nobody();
            let script = format!("{PRELUDE}\nme = {i}\nwhile True:\n{lines}");
            command.args([python(), "-c"]).arg(script).arg(directory);
            command.process_group(0).spawn().unwrap()
        };
        let crowd = Self((0..count).map(one).collect());
        wait::until("a crowd to have begun", wait::TIMEOUT, || {
            let begun = (0..count).filter(|i| directory.join(format!("crowd-{i}")).exists()).count();
            if begun == count { Ok(()) } else { Err(format!("{begun} of {count}")) }
        });
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            drop(child.wait());
        }
    }
}

/// Each makes the disk write; what they do lies beside what others do.
const FSYNC: &str = r#"
    fd = os.open(f"{path}/crowd-{me}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.write(fd, b"x" * 4096); os.fsync(fd); os.close(fd)
"#;
/// Each keeps a worker as busy as it can.
const NAMES: &str = r#"
    f = f"{path}/crowd-{me}"
    os.close(os.open(f, os.O_CREAT | os.O_WRONLY)); os.listdir(path); os.stat(f)
    os.rename(f, f + "b"); os.rename(f + "b", f)
"#;

/// The slowest but one of a hundred writes.
fn p99(path: &Path) -> Duration {
    const WRITES: usize = 600;
    const PAUSE: Duration = Duration::from_micros(300);
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    let mut times: Vec<Duration> = (0..WRITES)
        .map(|_| {
            let begin = Instant::now();
            file.write_all(&[b'x'; 128]).unwrap();
            let taken = begin.elapsed();
            // Somebody who writes now and then: not a part of the load.
            std::thread::sleep(PAUSE);
            taken
        })
        .collect();
    times.sort();
    times[WRITES * 99 / 100]
}

/// What else the machine has to do counts for both: the same crowd in the directory beside, without an overlay.
fn assert_stays_quick(crowd: &str) {
    const CROWD: usize = 6;
    const ROUNDS: usize = 5;
    /// The best round must be no worse than this.
    const RATIO_MAX: f64 = 2.0;
    let ground = Ground::overlaid();
    let beside = ground.bywash.root().join("beside");
    fs::create_dir(&beside).unwrap();
    super::open_to_all(&beside);
    let victim = ground.above.join("victim");
    let mut best = f64::INFINITY;
    for round in 1..=ROUNDS {
        let alone = p99(&victim);
        let without = {
            let _crowd = Crowd::begin(CROWD, &beside, crowd);
            p99(&victim)
        };
        let attacked = {
            let _crowd = Crowd::begin(CROWD, &ground.above, crowd);
            p99(&victim)
        };
        let ratio = attacked.as_secs_f64() / without.max(alone).as_secs_f64();
        println!(
            "round {round}: p99 {alone:?} alone, {without:?} beside the crowd, {attacked:?} with it: {ratio:.2}"
        );
        best = best.min(ratio);
        if best < RATIO_MAX {
            break;
        }
        for i in 0..CROWD {
            drop(fs::remove_file(ground.above.join(format!("crowd-{i}"))));
            drop(fs::remove_file(beside.join(format!("crowd-{i}"))));
        }
    }
    assert!(best < RATIO_MAX, "others' writes take {best:.2} times as long");
}

#[test]
fn others_write_as_quickly_while_many_have_the_disk_write() {
    if is_left_out("others_write_as_quickly_while_many_have_the_disk_write") {
        return;
    }
    assert_stays_quick(FSYNC);
}

#[test]
fn others_write_as_quickly_while_many_work_on_names() {
    if is_left_out("others_write_as_quickly_while_many_work_on_names") {
        return;
    }
    assert_stays_quick(NAMES);
}

/// An agent that may have so many descriptors, and may not raise that.
fn limited(bywash: &mut Bywash, descriptors: u32) {
    let agent = program("fs-agent");
    let limit = format!("--nofile={descriptors}:{descriptors}");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = [
        "--bounding-set=-sys_resource".to_owned(),
        "--inh-caps=-sys_resource".to_owned(),
        "--".to_owned(),
        "prlimit".to_owned(),
        limit,
        text(&agent),
        "run".to_owned(),
        "--config".to_owned(),
        text(&bywash.config),
    ];
    let process = Process::spawn("fs-agent", Path::new("setpriv"), arguments, bywash.root(), Signal::SIGTERM);
    bywash.agent = Some(process);
    wait::until_true("the overlay", wait::TIMEOUT, || {
        bywash.fs_agent(&["status"]).stdout.contains("listening on ")
    });
}

#[test]
fn who_opens_all_that_he_can_leaves_descriptors_to_others() {
    if is_left_out("who_opens_all_that_he_can_leaves_descriptors_to_others") {
        return;
    }
    let mut ground = Ground::new();
    limited(&mut ground.bywash, 2_000);
    fs::write(ground.above.join("before"), b"of root").unwrap();
    let mut attack = Command::new("prlimit");
    attack.args(["--nofile=20000:20000", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    attack.args(["--pdeathsig", "KILL", "--", python(), "-c"]);
    attack.arg(format!(
        r#"{PRELUDE}
fds = []
try:
    while len(fds) < 10_000: fds.append(os.open(f"{{path}}/mine-{{len(fds)}}", os.O_WRONLY | os.O_CREAT, 0o644))
except OSError as e: print(len(fds), errno.errorcode[e.errno], flush=True)
print("held", flush=True)
time.sleep(600)
"#
    ));
    attack.arg(&ground.above).stdout(std::process::Stdio::piped()).process_group(0);
    let mut child = attack.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    while let Some(Ok(line)) = lines.next()
        && line != "held"
    {
        println!("nobody has open: {line}");
    }
    let works = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert_works(&ground);
        assert_eq!(fs::read(ground.above.join("before")).unwrap(), b"of root");
        let opened: Vec<_> =
            (0..50).map(|i| File::create(ground.above.join(format!("roots-{i}"))).unwrap()).collect();
        opened.iter().for_each(|mut file| file.write_all(b"x").unwrap());
    }));
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    drop(child.wait());
    if let Err(panic) = works {
        std::panic::resume_unwind(panic);
    }
    assert_works(&ground);
}

/// Of each kind of limit: what it refuses, and how the process ends that does not listen.
#[test]
fn limits_of_a_process_hold_as_below() {
    if is_left_out("limits_of_a_process_hold_as_below") {
        return;
    }
    let seen = assert_same(
        "",
        r#"
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def child(do, listens=True):
    pid = os.fork()
    if pid == 0:
        if listens: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        else: signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try: do()
        except OSError as e: os._exit(e.errno)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def opened(name): return os.open(f"{path}/{name}", os.O_RDWR | os.O_CREAT, 0o644)
for listens in (True, False):
    for name, do in {
        "write": lambda f: [os.write(f, b"x" * 4000) for _ in range(4)], "pwrite": lambda f: os.pwrite(f, b"x" * 4000, 9_000),
        "beyond": lambda f: os.pwrite(f, b"x", 10_000), "at": lambda f: os.pwrite(f, b"x", 9_999),
        "truncate": lambda f: os.ftruncate(f, 10_001), "exactly": lambda f: os.ftruncate(f, 10_000),
        "fallocate": lambda f: os.posix_fallocate(f, 0, 10_001), "append": lambda f: [os.ftruncate(f, 9_990), os.lseek(f, 0, 2), os.write(f, b"x" * 20)],
    }.items():
        f = opened(f"{name}-{listens}")
        ended = child(lambda: do(f), listens)
        seen[f"{name} {listens}"] = [ended, os.fstat(f).st_size]
def few():
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    while True: opened("few")
seen["descriptors"] = child(few)
"#,
        "",
    );
    assert_eq!(seen[0]["beyond True"][0], json!(27), "EFBIG");
    assert_eq!(seen[0]["beyond False"][0], json!(-25), "SIGXFSZ");
}

/// A small ext4 in a file.
struct Image<'g> {
    ground: &'g Ground,
}

impl<'g> Image<'g> {
    /// Mounted where the watched directory is; nothing where the machine cannot do that.
    fn mount(ground: &'g Ground, options: &[&str]) -> Option<Self> {
        let image = ground.bywash.root().join("image");
        File::create(&image).unwrap().set_len(48 << 20).unwrap();
        let made = run(Command::new("mkfs.ext4").arg("-q").args(options).arg(&image), wait::TIMEOUT);
        if made.code != Some(0) {
            println!("skipped: no ext4 can be made here: {made:?}");
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(ground.bywash.directory());
        let mounted = run(&mut mount, wait::TIMEOUT);
        if mounted.code != Some(0) {
            println!("skipped: no file can be mounted here: {mounted:?}");
            return None;
        }
        super::open_to_all(ground.bywash.directory());
        Some(Self { ground })
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        mounts::detach_below(self.ground.bywash.directory());
    }
}

/// How many KiB nobody in particular can write, and what he is told then.
fn fill(directory: &Path) -> serde_json::Value {
    by_nobody(
        directory,
        r#"
def fill(name, do):
    fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT, 0o644)
    done = 0
    try:
        while done < 100 << 20: done += do(fd, done)
    except OSError as e: seen[name] = [done >> 10, errno.errorcode[e.errno]]
    # A close tells the agent when it likes to: what is cut is free at once.
    os.ftruncate(fd, 0); os.close(fd); os.unlink(f"{path}/{name}")
def allocate(fd, done): os.posix_fallocate(fd, done, 65536); return 65536
fill("write", lambda fd, done: os.write(fd, b"x" * 65536))
fill("fallocate", allocate)
"#,
    )
}

#[test]
fn blocks_reserved_for_root_stay_reserved() {
    if is_left_out("blocks_reserved_for_root_stay_reserved") {
        return;
    }
    let mut ground = Ground::new();
    let below = {
        let Some(_image) = Image::mount(&ground, &["-m", "50"]) else { return };
        fill(ground.bywash.directory())
    };
    let Some(_) = Image::mount(&ground, &["-m", "50"]).map(std::mem::forget) else { return };
    ground.bywash.start_agent();
    let above = fill(ground.bywash.directory());
    assert_eq!(below["write"][1], json!("ENOSPC"));
    for way in ["write", "fallocate"] {
        let [below, above] = [&below, &above].map(|seen| seen[way][0].as_u64().unwrap());
        // Blocks are given out in groups.
        assert!(above.abs_diff(below) < 2_048, "{way}: {above} KiB above, {below} below");
    }
    ground.bywash.stop_agent();
}

/// Who fills the ring has his writes counted as lost; those of others return as before.
#[test]
fn who_fills_the_ring_holds_up_nobody() {
    if is_left_out("who_fills_the_ring_holds_up_nobody") {
        return;
    }
    let mut ground = Ground::with(&Settings { ring_size: "4MiB", ..Settings::default() });
    ground.bywash.start_agent();
    by_nobody(
        &ground.above,
        r#"
fd = os.open(f"{path}/flood", os.O_WRONLY | os.O_CREAT)
for _ in range(64): os.write(fd, b"x" * (1 << 20))
"#,
    );
    let mut worst = Duration::ZERO;
    for i in 0..100 {
        let begin = Instant::now();
        fs::write(ground.above.join(format!("after-{i}")), b"x").unwrap();
        worst = worst.max(begin.elapsed());
    }
    println!("the slowest of 100 files took {worst:?}");
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    let status = ground.bywash.agent_status();
    assert!(status["lost"].to_string().contains("ring_full"), "{status}");
    assert_eq!(tree::files(&ground.above).iter().filter(|(path, _)| path.ends_with("flood")).count(), 1);
    // What there is room for is captured again.
    let mut capture = Capture::attach(&ground.bywash.ring);
    let (_, lost) = capture.take_with_losses();
    fs::write(ground.above.join("captured"), b"again").unwrap();
    let (captured, lost_since) = capture.take_with_losses();
    assert!(captured.iter().any(|write| write.path.ends_with(b"/captured")), "{captured:?}");
    assert!(!lost.is_empty() || !lost_since.is_empty());
}

/// As long as the kernel lets a command line be, on each of many writes.
#[test]
fn command_lines_of_any_length_take_no_room() {
    if is_left_out("command_lines_of_any_length_take_no_room") {
        return;
    }
    let ground = Ground::overlaid();
    let mut command = nobody();
    command.args([python(), "-c"]).arg(format!(
        r#"{PRELUDE}
fd = os.open(f"{{path}}/long", os.O_WRONLY | os.O_CREAT)
for _ in range(1000): os.write(fd, b"x")
"#
    ));
    command.arg(&ground.above).args((0..12).map(|_| "a".repeat(100_000)));
    must_run(&mut command);
    let status = ground.bywash.agent_status();
    let used = status["ring"]["used_bytes"].as_u64().unwrap_or_else(|| panic!("{status}"));
    println!("1,000 records take {used} bytes");
    assert!(used < 16 << 20, "1,000 records of a byte each take {used} bytes");
    assert_works(&ground);
}

/// More writers than there are workers.
#[test]
fn writes_that_wait_for_the_disk_take_turns_and_are_all_done() {
    const WRITERS: u64 = 100;
    const WRITES: u64 = 10;
    let ground = Ground::overlaid();
    let before = ground.bywash.agent_status()["captured"]["events"].as_u64().unwrap();
    let mut command = nobody();
    command.args([python(), "-c"]).arg(format!(
        r#"{PRELUDE}
for i in range({WRITERS}):
    if os.fork() == 0:
        fd = os.open(f"{{path}}/synced-{{i}}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_DSYNC, os.O_SYNC, 0)[i % 3])
        for n in range({WRITES}):
            assert os.pwritev(fd, [b"0123456789"], 0, (0, 0, os.RWF_DSYNC)[i % 3]) == 10
        os._exit(0)
for i in range({WRITERS}): assert os.wait()[1] == 0
"#
    ));
    must_run(command.arg(&ground.above));
    for i in 0..WRITERS {
        let content = fs::read(ground.above.join(format!("synced-{i}"))).unwrap();
        assert_eq!(content, b"0123456789".repeat(WRITES as usize), "{i}");
    }
    let after = ground.bywash.agent_status()["captured"]["events"].as_u64().unwrap();
    assert_eq!(after - before, WRITERS * WRITES);
}

/// A filesystem that makes all wait who would change it, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(place: &Path) -> Self {
        must_run(Command::new("fsfreeze").arg("-f").arg(place));
        Self(place.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(Command::new("fsfreeze").arg("-u").arg(&self.0).status());
    }
}

/// How many processes of nobody's wait for an overlay's answer.
fn waiting() -> usize {
    let of_nobody = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.uid() == super::NOBODY);
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let wchans = processes.filter(|path| of_nobody(path)).map(|path| fs::read(path.join("wchan")));
    wchans.filter(|wchan| wchan.as_ref().is_ok_and(|wchan| wchan.starts_with(b"request_wait"))).count()
}

/// More than one user can have workers.
const MANY: usize = 100;

/// A disk takes its time, here for ever: that shall cost workers of who waits for it alone. Many processes do `stuck` to a
/// file `fd`, the `i`th of `path`; in the end all of it is `done` to that file below.
fn assert_leaves_workers(stuck: &str, done: impl Fn(&Path, usize) -> bool) {
    let mut ground = Ground::new();
    let Some(image) = Image::mount(&ground, &[]) else { return };
    let (directory, beside) = (ground.bywash.directory().to_owned(), ground.bywash.root().join("beside"));
    fs::create_dir(&beside).unwrap();
    must_run(Command::new("mount").arg("--bind").arg(&directory).arg(&beside));
    fs::write(directory.join("of-root"), b"still here").unwrap();
    std::mem::forget(image);
    ground.bywash.start_agent();
    let frozen = {
        let crowd = format!(
            r#"
    fds = [os.open(f"{{path}}/crowd-{{i}}", os.O_WRONLY | os.O_CREAT, 0o644) for i in range({MANY})]
    while not os.path.exists(f"{{path}}/../go"): time.sleep(0.01)
    for fd in fds:
        i = fds.index(fd)
        if os.fork() == 0: {stuck}; os._exit(0)
    for fd in fds: os.wait()
    os._exit(0)
"#
        );
        let crowd = Crowd::begin(1, &directory, &crowd);
        wait::until_true("their files", wait::TIMEOUT, || {
            directory.join(format!("crowd-{}", MANY - 1)).exists()
        });
        (Frozen::new(&beside), crowd)
    };
    fs::write(ground.bywash.root().join("go"), b"").unwrap();
    wait::until("them to wait", wait::TIMEOUT, || {
        let waiting = waiting();
        if waiting >= MANY { Ok(()) } else { Err(format!("{waiting} do")) }
    });
    for uid in ["0", "1"] {
        let mut other = Command::new("setpriv");
        other.args([
            "--reuid",
            uid,
            "--clear-groups",
            "--",
            "sh",
            "-c",
            r#"ls "$1" > "/dev/null" && cat "$1/of-root""#,
            "sh",
        ]);
        let seen = run(other.arg(&directory), Duration::from_secs(20));
        assert_eq!((seen.code, seen.stdout.as_str()), (Some(0), "still here"), "{seen:?}");
    }
    let (frozen, crowd) = frozen;
    drop(frozen);
    wait::until_true("all of it to be done", wait::TIMEOUT, || (0..MANY).all(|i| done(&directory, i)));
    drop(crowd);
    ground.bywash.stop_agent();
    mounts::detach_below(&beside);
    mounts::detach_below(&directory);
}

fn size(directory: &Path, i: usize) -> u64 {
    fs::metadata(directory.join(format!("crowd-{i}"))).map_or(0, |metadata| metadata.len())
}

// Guarantee: G9
#[test]
fn who_waits_for_the_disk_leaves_workers_to_others() {
    if is_left_out("who_waits_for_the_disk_leaves_workers_to_others") {
        return;
    }
    assert_leaves_workers("os.ftruncate(fd, 1)", |directory, i| size(directory, i) == 1);
}

/// What carries data waits its turn as well.
#[test]
fn who_is_stuck_in_writes_leaves_workers_to_others() {
    if is_left_out("who_is_stuck_in_writes_leaves_workers_to_others") {
        return;
    }
    let stuck = r#"assert os.write(fd, b"x" * 65536) == 65536"#;
    assert_leaves_workers(stuck, |directory, i| size(directory, i) == 65536);
}
