//! To get something into logs, events or paths by how a file is called.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use bywash_tests::harness::{Capture, Settings};

use crate::hostile::{Ground, assert_same, assert_works, by_nobody, is_left_out};

/// Names that a terminal, a log, JSON, a shell, a table of mounts or a path is broken by.
const NAMES: [&[u8]; 12] = [
    b"new\nline",
    b"\x1b]0;title\x07\x1b[31mred",
    b"\xff\xfe not UTF-8 \xc3(",
    b"\"quotes\" and \\ and \\n and \\040",
    b"tab\tand\rreturn",
    b"%s%n%d $(id) `id` ; id",
    b" ",
    b"...",
    b"-rf",
    b"\xe2\x80\xae right to left",
    b"2026-11-27T05:00:00Z  INFO listening on \\etc",
    b"\x01\x02\x7f\x80",
];

#[test]
fn any_name_arrives_as_it_is_and_breaks_no_line_of_the_log() {
    if is_left_out("any_name_arrives_as_it_is_and_breaks_no_line_of_the_log") {
        return;
    }
    // A quota has the agent speak of files by their names.
    let settings = Settings {
        directory: "quota = { bytes_per_second = 100, files_tracked = 20 }\n",
        ..Settings::default()
    };
    let mut ground = Ground::with(&settings);
    ground.bywash.start_agent();
    let mut capture = Capture::attach(&ground.bywash.ring);
    for name in NAMES {
        let path = ground.above.join(PathBuf::from(std::ffi::OsString::from_vec(name.to_vec())));
        let mut file = File::create(&path).unwrap();
        file.write_all(b"once").unwrap();
        let (captured, _) = capture.take_with_losses();
        assert_eq!(captured.len(), 1, "{captured:?}");
        assert_eq!(Path::new(std::ffi::OsStr::from_bytes(&captured[0].path)), path);
        // More than the quota; how much that lets pass depends on the time that it takes.
        (0..20).for_each(|_| file.write_all(&[b'x'; 50]).unwrap());
        capture.skip();
    }
    // Directories too, and what lies in them.
    for name in NAMES {
        let path = ground.above.join(std::ffi::OsStr::from_bytes(&[b"d", name].concat()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("f"), b"x").unwrap();
        fs::rename(&path, path.with_extension("renamed")).unwrap();
    }
    capture.skip();
    assert_works(&ground);
    ground.bywash.stop_agent();
    let log = ground.bywash.agent().log();
    let is_line = |line: &&str| {
        let is_dated = line.len() > 27 && line.starts_with("20") && &line[26..27] == "Z";
        is_dated && !line.contains(|c: char| c.is_control())
    };
    assert!(log.lines().all(|line| is_line(&line)), "a line that the agent has not written: {log}");
    assert!(!log.contains("listening on \\etc"), "{log}");
}

/// As long as the kernel lets a path be, made step by step; then by a working directory deeper down than any path says.
#[test]
fn paths_of_any_length_and_depth_are_as_below() {
    if is_left_out("paths_of_any_length_and_depth_are_as_below") {
        return;
    }
    // "above" and "below" are of one length.
    let seen = assert_same(
        "",
        r#"
os.chdir(path)
name = "n" * 255
for depth in range(40):
    os.mkdir(name); os.chdir(name)
    with open("f", "w") as f: f.write("deep")
    seen[f"size at {depth}"] = os.stat("f").st_size
    if depth % 8 == 0:
        os.rename("f", "g"); os.link("g", "h"); os.unlink("g")
attempt("too long a name", lambda: os.mkdir("n" * 256))
# To the byte: paths of PATH_MAX - 1 and PATH_MAX bytes.
for length in (4094, 4095, 4096):
    deep = path
    while length - len(deep) > 256: deep += "/" + name
    attempt(f"open a path of {length}", lambda: os.close(os.open(deep + "/" + "f" * (length - len(deep) - 1), os.O_CREAT | os.O_WRONLY)))
os.chdir(path)
removed = 0
def walk(fd):
    total = 0
    for entry in os.listdir(fd):
        s = os.lstat(entry, dir_fd=fd)
        if stat.S_ISDIR(s.st_mode):
            below = os.open(entry, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd); total += walk(below); os.close(below)
            os.rmdir(entry, dir_fd=fd)
        else: os.unlink(entry, dir_fd=fd)
        total += 1
    return total
seen["removed"] = walk(os.open(path, os.O_RDONLY))
"#,
        r#"seen["left"] = os.listdir(path)"#,
    );
    assert_eq!(seen[0]["too long a name"], "ENAMETOOLONG");
    assert_eq!(seen[1]["left"], serde_json::json!([]));
}

/// What hangs on one another is let go of without one function calling another for each.
#[test]
fn thirty_thousand_nested_directories_do_not_end_the_agent() {
    if is_left_out("thirty_thousand_nested_directories_do_not_end_the_agent") {
        return;
    }
    const DEPTH: usize = 30_000;
    let mut ground = Ground::in_memory();
    ground.bywash.start_agent();
    let nest = format!(
        r#"
os.chdir(path)
for _ in range({DEPTH}): os.mkdir("a"); os.chdir("a")
with open("deepest", "w") as f: f.write("here")
seen["content"] = open("deepest").read()
"#
    );
    assert_eq!(by_nobody(&ground.above, &nest)["content"], "here");
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    assert_works(&ground);
    // It lets go of everything at once.
    ground.bywash.stop_agent();
}

fn make_small_files(files: usize) {
    let mut ground = Ground::in_memory();
    ground.bywash.start_agent();
    let pid = ground.bywash.agent().pid();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = resident();
    let seen = by_nobody(
        &ground.above,
        &format!(
            r#"
for i in range({files}):
    fd = os.open(f"{{path}}/{{i}}", os.O_CREAT | os.O_WRONLY, 0o644); os.write(fd, b"x"); os.close(fd)
seen["files"] = len(os.listdir(path))
"#
        ),
    );
    assert_eq!(seen["files"], files);
    let after = resident();
    println!("{files} files: {before} KiB before, {after} KiB after");
    assert!(after < before + 32 * 1024, "the agent has grown from {before} to {after} KiB");
    assert_works(&ground);
}

#[test]
fn ten_thousand_small_files_leave_the_agent_small() {
    if is_left_out("ten_thousand_small_files_leave_the_agent_small") {
        return;
    }
    make_small_files(10_000);
}

#[test]
#[ignore = "takes a minute: make hostile"]
fn a_hundred_thousand_small_files_leave_the_agent_small() {
    if is_left_out("a_hundred_thousand_small_files_leave_the_agent_small") {
        return;
    }
    make_small_files(100_000);
}
