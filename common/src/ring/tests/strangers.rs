//! Names in the directory of shared memory that others have made, and what they may do with a ring's objects.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
    sys::stat::{Mode, SFlag, mknod},
    unistd::{Group, geteuid, mkfifo},
};

use super::*;
use crate::status::AgentCounter;

/// Somebody without any right.
const STRANGER: u32 = 65534;

/// Only root can give files away; says so where it is not.
fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("skipped: only root can make what belongs to others");
    }
    root
}

impl TestRing {
    fn squat(&self, end: &str) {
        fs::write(self.object(end), b"").unwrap();
        chown(self.object(end), Some(STRANGER), None).unwrap();
    }

    /// A record goes from an agent that starts now to a publisher, and both are seen.
    #[track_caller]
    fn assert_works(&self) -> AgentRing {
        let agent = self.agent();
        agent.producer.push(Kind::Write, &[b"x"], weight(1)).unwrap();
        let mut publisher = self.publisher();
        let seen = drain(&mut publisher.consumer);
        publisher.consumer.acker().ack(seen.last().unwrap().0.end);
        assert_eq!(seen.last().unwrap().1, b"x");
        assert!(!publisher.has_successor().unwrap());
        for looked in [inspect(&self.0.name).unwrap(), inspect_to_show(&self.0.name).unwrap()] {
            assert_eq!((looked.uuid, looked.used), (publisher.uuid, 0));
            assert!(looked.agent_running && looked.publisher_running);
            assert_eq!(looked.agent(AgentCounter::Pid), u64::from(std::process::id()));
        }
        agent
    }
}

/// What anybody can put at a name.
const KINDS: [&str; 7] =
    ["a file", "a link to the ring", "a dangling link", "a FIFO", "a directory", "a device", "a full copy"];

fn put(ring: &TestRing, kind: &str, number: u32) {
    for role in ["ring", "ack"] {
        let path = ring.object(&format!("{number}.{role}"));
        let mode = Mode::from_bits_truncate(0o666);
        match kind {
            "a file" => fs::write(&path, b"").unwrap(),
            "a link to the ring" => symlink(ring.object(&format!("1.{role}")), &path).unwrap(),
            "a dangling link" => symlink("/nowhere", &path).unwrap(),
            "a FIFO" => mkfifo(&path, mode).unwrap(),
            "a directory" => fs::create_dir(&path).unwrap(),
            "a device" if mknod(&path, SFlag::S_IFCHR, mode, libc::makedev(1, 3)).is_err() => {
                println!("skipped: no device can be made here");
            }
            "a device" => {}
            _ => drop(fs::copy(ring.object(&format!("1.{role}")), &path).unwrap()),
        }
        // A link's own owner does not matter, nor what root itself puts there if it is no file.
        if ["a file", "a full copy"].contains(&kind) {
            chown(&path, Some(STRANGER), None).unwrap();
        }
    }
}

impl TestRing {
    fn clear(&self) {
        for object in self.objects() {
            let path = PathBuf::from(SEGMENT_DIR).join(object);
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        }
    }
}

#[test]
fn what_others_put_beside_a_ring_is_as_if_it_were_not_there() {
    if !is_root() {
        return;
    }
    for kind in KINDS {
        let ring = TestRing::new();
        drop(ring.assert_works());
        for number in [0, 2, 999, u32::MAX] {
            put(&ring, kind, number);
        }
        let agent = ring.assert_works();
        assert_eq!(inspect(&ring.0.name).unwrap().generation, 1, "{kind}: the ring is gone on with");
        drop(agent);
        // Another size asks for another generation, of which the next number is taken.
        let larger = RingConfig { size: ByteSize(2 * CAPACITY_MIN), ..ring.0.clone() };
        drop(AgentRing::open(&larger).unwrap());
        assert_eq!(inspect(&ring.0.name).unwrap().generation, 3, "{kind}");
        ring.clear();
    }
}

#[test]
fn names_that_are_taken_before_there_is_a_ring_are_no_obstacle() {
    if !is_root() {
        return;
    }
    const NAMES: u32 = 2000;
    let ring = TestRing::new();
    for number in 0..NAMES {
        ring.squat(&format!("{number}.{}", if number % 2 == 0 { "ring" } else { "ack" }));
    }
    ring.squat("1.ring.tmp");
    ring.squat("+2000.ring");
    ring.squat("02000.ring");
    drop(ring.assert_works());
    assert_eq!(inspect(&ring.0.name).unwrap().generation, NAMES);
    assert!(ring.object("1.ring.tmp").exists(), "what is others' is not removed");
}

#[test]
fn another_name_for_a_segment_neither_makes_nor_takes_a_ring() {
    let (ring, other) = (TestRing::new(), TestRing::new());
    drop(ring.assert_works());
    drop(other.assert_works());
    // As anybody can where fs.protected_hardlinks is 0.
    for role in ["ring", "ack"] {
        fs::hard_link(ring.object(&format!("1.{role}")), ring.object(&format!("9.{role}"))).unwrap();
        fs::hard_link(other.object(&format!("1.{role}")), ring.object(&format!("10.{role}"))).unwrap();
    }
    let uuid = inspect(&ring.0.name).unwrap().uuid;
    let _agent = ring.assert_works();
    let _other = other.assert_works();
    let seen = inspect(&ring.0.name).unwrap();
    assert_eq!((seen.generation, seen.uuid), (1, uuid));
}

#[test]
fn a_segment_that_was_moved_to_another_name_is_not_taken_for_a_ring() {
    let ring = TestRing::new();
    drop(ring.assert_works());
    for role in ["ring", "ack"] {
        fs::rename(ring.object(&format!("1.{role}")), ring.object(&format!("7.{role}"))).unwrap();
    }
    let damaged = PublisherRing::attach(&ring.0.name, None).err().unwrap();
    assert!(damaged.is_damage() && damaged.to_string().contains("another name"), "{damaged}");
    drop(ring.assert_works());
    assert_eq!(inspect(&ring.0.name).unwrap().generation, 8);
}

#[test]
fn a_ring_of_another_user_is_that_users_alone() {
    if !is_root() {
        return;
    }
    let ring = TestRing::new();
    drop(ring.agent());
    for end in ["1.ring", "1.ack"] {
        chown(ring.object(end), Some(12345), None).unwrap();
    }
    let missing = PublisherRing::attach(&ring.0.name, None).err();
    assert!(matches!(missing, Some(RingError::Missing { .. })), "{missing:?}");
    assert!(matches!(inspect(&ring.0.name), Err(RingError::Missing { .. })));
    assert_eq!(inspect_to_show(&ring.0.name).unwrap().generation, 1, "root sees it where it has none");
    drop(PublisherRing::attach(&ring.0.name, Some(12345)).unwrap());
    drop(ring.assert_works());
    assert_eq!(inspect_to_show(&ring.0.name).unwrap().generation, 2, "root's own comes first");
}

#[test]
fn a_lock_of_somebody_who_may_only_read_keeps_no_agent_out() {
    let ring = TestRing::new();
    drop(ring.agent());
    for (byte, generation) in [(0, 2), (1, 3)] {
        let newest = fs::File::open(ring.object(&format!("{}.ring", generation - 1))).unwrap();
        let lock = libc::flock {
            l_type: libc::F_RDLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&newest, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert!(!inspect(&ring.0.name).unwrap().agent_running, "a reader's lock is no agent");
        drop(ring.assert_works());
        assert_eq!(inspect(&ring.0.name).unwrap().generation, generation);
    }
}

fn modes(ring: &TestRing) -> [(u32, u32); 2] {
    ["1.ring", "1.ack"].map(|end| {
        let metadata = fs::metadata(ring.object(end)).unwrap();
        (metadata.permissions().mode() & 0o7777, metadata.gid())
    })
}

#[test]
fn the_group_may_write_what_is_the_publishers_alone_and_nobody_else_anything() {
    let ring = TestRing::new();
    drop(ring.agent());
    assert_eq!(modes(&ring).map(|(mode, _)| mode), [0o600; 2]);
    // One that this process is in.
    let gid = nix::unistd::getegid();
    let group = Group::from_gid(gid).unwrap().unwrap().name;
    let shared = RingConfig { group: Some(group), ..ring.0.clone() };
    drop(AgentRing::open(&shared).unwrap());
    let (data, ack) = ((0o640, gid.as_raw()), (0o660, gid.as_raw()));
    assert_eq!(modes(&ring), [data, ack], "a ring that is gone on with gets the modes of now");
    drop(ring.agent());
    assert_eq!(modes(&ring).map(|(mode, _)| mode), [0o600; 2]);
    let fresh = TestRing::new();
    drop(AgentRing::open(&RingConfig { name: fresh.0.name.clone(), ..shared }).unwrap());
    assert_eq!(modes(&fresh), [data, ack]);
}

#[test]
fn a_publisher_has_no_right_to_write_to_the_data_segment() {
    let ring = TestRing::new();
    let agent = ring.agent();
    agent.producer.push(Kind::Write, &[b"x"], weight(1)).unwrap();
    let publisher = ring.publisher();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mappings = |end: &str| {
        let object = ring.object(end);
        let lines = maps.lines().filter(|line| line.ends_with(object.to_str().unwrap()));
        let mut rights: Vec<_> = lines.map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
        rights.sort();
        rights
    };
    // The agent's and the publisher's.
    assert_eq!(mappings("1.ring"), ["r--s", "rw-s"]);
    assert_eq!(mappings("1.ack"), ["r--s", "rw-s"]);
    drop((agent, publisher));
}

#[test]
fn a_ring_without_its_consumer_segment_gives_way_to_another() {
    let ring = TestRing::new();
    drop(ring.assert_works());
    fs::remove_file(ring.object("1.ack")).unwrap();
    let damaged = PublisherRing::attach(&ring.0.name, None).err().unwrap();
    assert!(damaged.is_damage() && damaged.to_string().contains("1.ack"), "{damaged}");
    drop(ring.assert_works());
    assert_eq!(inspect(&ring.0.name).unwrap().generation, 2);
    // The other half goes when an agent makes the next one.
    fs::remove_file(ring.object("2.ring")).unwrap();
    drop(ring.assert_works());
    assert!(!ring.object("2.ack").exists(), "{:?}", ring.objects());
}
