//! The agent's unit under a real systemd, in a container: no program notices restarts and kills (G8). `make packages-test` tries
//! far more.

use std::{fs, path::Path, process::Command};

use bywash_tests::harness::{Machine, process, program};

/// The release whose root is booted.
const RELEASE: &str = "bookworm";
/// How often the agent is restarted, and as often killed.
const TIMES: u32 = 5;
/// Files that are open meanwhile.
const FILES: u32 = 400;
/// How long a program may wait, in milliseconds, on a machine that does many other things.
const WAIT_MS_MAX: u64 = 5_000;

#[test]
fn no_program_notices_what_systemd_does_to_the_agent() {
    let root = Machine::root(RELEASE);
    if let Some(obstacle) = Machine::obstacle(&root) {
        println!("skipped: {obstacle}");
        return;
    }
    let machine = Machine::boot(&root);
    let agent = machine.outside("/usr/bin/fs-agent");
    process::must_run(Command::new("strip").arg("-o").args([&agent, &program("fs-agent")]));
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/systemd");
    for unit in fs::read_dir(units).unwrap().flatten() {
        fs::copy(unit.path(), machine.outside("/etc/systemd/system").join(unit.file_name())).unwrap();
    }
    // Pages of mappings come as often as the kernel writes them: they are not counted.
    machine.must(
        "mkdir /etc/bywash && printf '[ring]\\nsize = \"256MiB\"\\n[[directory]]\\npath = \"/srv/watched\"\\ncreate = true\\nexclude = [\"mapped-*\"]\\n' \
         >/etc/bywash/bywash.toml && systemctl daemon-reload && systemctl start fs-agent",
    );
    machine.settle("resident", "/srv/watched/resident", FILES);
    for _ in 0..TIMES {
        machine.must("systemctl restart fs-agent");
    }
    for _ in 0..TIMES {
        machine.signal_and_replace("fs-agent", "KILL");
    }
    let report = machine.leave("resident");
    let errors = report.errors();
    assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
    let (longest_ms, whose) = report.longest();
    assert!(longest_ms <= WAIT_MS_MAX, "{whose} waited {longest_ms} ms");
    let status: serde_json::Value = serde_json::from_str(&machine.must("fs-agent status --json")).unwrap();
    println!("longest wait {longest_ms} ms; {status}");
    let (writes, bytes) = report.written();
    assert_eq!(
        (status["captured"]["events"].as_u64(), status["captured"]["bytes"].as_u64()),
        (Some(writes), Some(bytes))
    );
    machine.must("systemctl stop fs-agent && ! mountpoint -q /srv/watched");
}
