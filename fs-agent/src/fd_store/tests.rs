//! A manager that is full of one user's files, and one that takes nothing.

use std::{
    os::unix::{fs::chown, net::UnixDatagram},
    time::{Duration, Instant},
};

use rustix::{pipe::pipe, process::geteuid};
use tempfile::TempDir;

use super::*;

/// A store of up to `most` descriptors, and the manager, who reads nothing by itself.
fn store(most: usize) -> (Store, UnixDatagram, OwnedFd, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let (reading, writing) = pipe().unwrap();
    let socket = Some(Socket::connect(&path).unwrap());
    (Store::with(Manager::Supervisor(reading), socket, most, Vec::new()), manager, writing, dir)
}

fn read_all(manager: &UnixDatagram) {
    while manager.recv(&mut [0; 256]).is_ok() {}
}

fn parked(node: u64) -> Name {
    Name::Overlay(0, OverlayPart::Parked(node))
}

#[test]
fn who_deletes_what_he_has_open_leaves_room_for_overlays_and_others() {
    if !geteuid().is_root() {
        return println!("skipped: only root can give files away");
    }
    let (store, manager, _writing, dir) = store(128);
    let file_of = |uid: u32| {
        let path = dir.path().join(uid.to_string());
        let file = std::fs::File::create(&path).unwrap();
        chown(path, Some(uid), Some(uid)).unwrap();
        OwnedFd::from(file)
    };
    let park_all = |uid: u32, first: u64| {
        let file = file_of(uid);
        let parks = (first..).take_while(|node| {
            let put = store.put(&parked(*node), file.as_fd());
            read_all(&manager);
            put.is_ok()
        });
        parks.count()
    };
    assert_eq!(park_all(1001, 0), 48, "a half of those 96 that users may have");
    assert_eq!(park_all(1002, 1000), 24);
    let file = file_of(0);
    for number in 1..20 {
        store.put(&Name::Overlay(number, OverlayPart::State), file.as_fd()).unwrap();
        read_all(&manager);
    }
    assert_eq!(store.put(&parked(3000), file_of(1002).as_fd()), {
        Err(NotKept::Share { most: 96, has: 24, uid: 1002 })
    });
}

#[test]
fn who_deletes_what_he_has_open_waits_for_a_manager_that_stands_still_once() {
    let (store, manager, _writing, dir) = store(4096);
    let file = OwnedFd::from(std::fs::File::create(dir.path().join("f")).unwrap());
    let is_stuck = |node: u64| store.put(&parked(node), file.as_fd()) == Err(NotKept::Refused(Errno::AGAIN));
    let first = (0..4096).find(|node| is_stuck(*node)).unwrap();
    let begin = Instant::now();
    // Two seconds each, else.
    assert!((first..first + 30).all(is_stuck));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    read_all(&manager);
    assert_eq!(store.put(&parked(first), file.as_fd()), Ok(()));
}
