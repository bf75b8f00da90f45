//! To have the agent's workers wait for something that does not come.

use std::{
    fs::{self, File},
    io::{Read, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bywash_tests::harness::{Bywash, Settings, process::must_run, wait};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    hostile::{
        Ground, PRELUDE, assert_same, assert_works, by_nobody, is_left_out, nobody, open_to_all, python,
    },
    overlay::NO_BROKER,
};

/// More than an agent has workers.
const MANY: usize = 100;

/// A script of nobody's that runs until it is dropped.
struct Attack(Child);

impl Attack {
    /// Returns when the script has said that it is ready, by `ready()`.
    #[track_caller]
    fn begin(directory: &std::path::Path, lines: &str) -> Self {
        let mut command = nobody();
        let ready = "def ready(): print('ready', flush=True)\n";
        command.args([python(), "-c"]).arg(format!("{PRELUDE}{ready}{lines}")).arg(directory);
        let mut child = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut said = [0; 6];
        let told = child.stdout.as_mut().unwrap().read_exact(&mut said);
        assert!(told.is_ok() && said == *b"ready\n", "an attack has not begun: {told:?}");
        Self(child)
    }
}

use std::os::unix::process::CommandExt;

impl Drop for Attack {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, Signal::SIGKILL);
        drop(self.0.wait());
    }
}

/// The kernel makes who opens a FIFO wait, not the agent.
#[test]
fn opens_of_fifos_sockets_and_devices_hold_no_worker() {
    if is_left_out("opens_of_fifos_sockets_and_devices_hold_no_worker") {
        return;
    }
    let ground = Ground::overlaid();
    let attack = Attack::begin(
        &ground.above,
        &format!(
            r#"
pids = []
for i in range({MANY}):
    fifo = f"{{path}}/fifo{{i}}"; os.mkfifo(fifo)
    pid = os.fork()
    if pid == 0: os.open(fifo, os.O_RDONLY if i % 2 else os.O_WRONLY); os._exit(0)
s = socket.socket(socket.AF_UNIX); s.bind(f"{{path}}/socket"); s.listen()
for i in range({MANY}):
    c = socket.socket(socket.AF_UNIX); c.setblocking(False)
    try: c.connect(f"{{path}}/socket")
    except OSError: pass
    try: os.open(f"{{path}}/socket", os.O_RDWR)
    except OSError as e: assert e.errno == errno.ENXIO
    globals()[f"c{{i}}"] = c
# Each child has come to its open when it sleeps there.
def waits(pid): return open(f"/proc/{{pid}}/wchan").read()
ready(); time.sleep(600)
"#
        ),
    );
    assert_works(&ground);
    drop(attack);
    assert_works(&ground);
}

#[test]
fn waiting_for_locks_holds_no_worker() {
    if is_left_out("waiting_for_locks_holds_no_worker") {
        return;
    }
    let ground = Ground::overlaid();
    let attack = Attack::begin(
        &ground.above,
        &format!(
            r#"
held = os.open(f"{{path}}/locked", os.O_RDWR | os.O_CREAT); fcntl.flock(held, fcntl.LOCK_EX); fcntl.lockf(held, fcntl.LOCK_EX)
for i in range({MANY}):
    if os.fork() == 0:
        fd = os.open(f"{{path}}/locked", os.O_RDWR)
        (fcntl.flock if i % 2 else fcntl.lockf)(fd, fcntl.LOCK_EX); os._exit(0)
ready(); time.sleep(600)
"#
        ),
    );
    assert_works(&ground);
    drop(attack);
    let unlocked = by_nobody(
        &ground.above,
        r#"
fd = os.open(f"{path}/locked", os.O_RDWR)
attempt("flock", lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)); attempt("lockf", lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
"#,
    );
    assert_eq!(unlocked, json!({"flock": "done", "lockf": "done"}));
}

/// An open of a file on which somebody has a lease waits for them; they have it on files that they opened before there was
/// an overlay, and open them through it.
#[test]
fn leases_from_before_the_overlay_hold_up_their_holder_alone() {
    if is_left_out("leases_from_before_the_overlay_hold_up_their_holder_alone") {
        return;
    }
    let mut ground = Ground::new();
    let go = ground.bywash.root().join("go");
    let attack = Attack::begin(
        &ground.above,
        &format!(
            r#"
leased = []
for i in range({MANY}):
    fd = os.open(f"{{path}}/leased{{i}}", os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK); leased.append(fd)
signal.signal(signal.SIGIO, signal.SIG_IGN)
directory = os.open(path, os.O_PATH)
ready()
while not os.path.exists({go:?}): time.sleep(0.01)
for i in range({MANY}):
    if os.fork() == 0: os.open(f"{{path}}/leased{{i}}", os.O_WRONLY); time.sleep(600)
open({go:?} + ".gone", "w").close()
time.sleep(600)
"#,
            go = go
        ),
    );
    ground.bywash.start_agent();
    open_to_all(ground.bywash.root());
    File::create(&go).unwrap();
    let gone = ground.bywash.root().join("go.gone");
    wait::until_true("the opens", wait::TIMEOUT, || gone.exists());
    assert_works(&ground);
    drop(attack);
    assert_works(&ground);
}

/// Whoever looks at the command line of a process waits for who holds its address space.
#[test]
fn writers_whose_address_space_is_held_hold_up_themselves_alone() {
    if is_left_out("writers_whose_address_space_is_held_hold_up_themselves_alone") {
        return;
    }
    let ground = Ground::overlaid();
    // A filesystem that does not answer: as a user, one that he has mounted himself by fusermount3.
    let mut silent = Bywash::new(NO_BROKER, &Settings::default());
    [silent.root(), silent.directory()].into_iter().for_each(open_to_all);
    silent.start_agent();
    let hold = ground.bywash.root().join("hold");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/hold.c");
    must_run(Command::new("cc").args(["-Wall", "-Werror", "-O1", "-o"]).arg(&hold).arg(source));
    let mut command = nobody();
    command.arg(&hold).arg(silent.file("map")).arg(&ground.above).arg(MANY.to_string());
    let mut holding = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0];
    holding.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    silent.agent().stop();
    let mut phases = holding.stdin.take().unwrap();
    phases.write_all(b"1").unwrap();
    // Its address space is held when its own command line cannot be read.
    let proc = format!("/proc/{}/cmdline", holding.id());
    wait::until("the address space to be held", wait::TIMEOUT, || {
        let mut look =
            Command::new("timeout").args(["0.3", "cat", &proc]).stdout(Stdio::null()).spawn().unwrap();
        if look.wait().unwrap().success() { Err("it is not".to_owned()) } else { Ok(()) }
    });
    phases.write_all(b"2").unwrap();
    let held = || fs::read_dir(&ground.above).map(Iterator::count);
    let works = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert_works(&ground);
        assert!(held().unwrap() >= MANY);
    }));
    silent.agent().signal(Signal::SIGCONT);
    drop(phases);
    drop(holding.wait());
    if let Err(panic) = works {
        std::panic::resume_unwind(panic);
    }
    // What they wrote is there.
    wait::until("their writes", Duration::from_secs(20), || {
        let written = (0..MANY).filter(|i| {
            fs::metadata(ground.above.join(format!("held-{i}"))).is_ok_and(|metadata| metadata.len() > 0)
        });
        let written = written.count();
        if written == MANY { Ok(()) } else { Err(format!("{written} of {MANY}")) }
    });
}

#[test]
fn a_mapping_whose_file_is_cut_ends_its_user_as_below() {
    if is_left_out("a_mapping_whose_file_is_cut_ends_its_user_as_below") {
        return;
    }
    let seen = assert_same(
        "",
        r#"
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def ended(do):
    pid = os.fork()
    if pid == 0: do(); os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
f = f"{path}/mapped"
for flags, access in ((os.O_RDONLY, mmap.PROT_READ), (os.O_RDWR, mmap.PROT_READ | mmap.PROT_WRITE)):
    for length in (0, 1, 4096, 5000):
        with open(f, "wb") as made: made.write(b"x" * 16384)
        fd = os.open(f, flags); m = mmap.mmap(fd, 16384, prot=access)
        seen[f"before {flags} {length}"] = ended(lambda: m[12000])
        os.truncate(f, length)
        for offset in (0, 4095, 4096, 8192, 12000):
            seen[f"read {flags} {length} {offset}"] = ended(lambda: m[offset])
            if flags == os.O_RDWR: seen[f"store {length} {offset}"] = ended(lambda: m.__setitem__(offset, 1))
        # A write from there, and a read to there, fail without harm.
        other = os.open(f"{path}/other", os.O_RDWR | os.O_CREAT)
        attempt(f"write from {flags} {length}", lambda: os.pwrite(other, memoryview(m)[8192:12288], 0))
        if flags == os.O_RDWR: attempt(f"read to {length}", lambda: os.preadv(os.open("/dev/zero", os.O_RDONLY), [memoryview(m)[8192:12288]], 0))
        os.close(fd); os.close(other)
"#,
        "",
    );
    assert_eq!(seen[0]["read 0 0 8192"], json!(-7));
}
