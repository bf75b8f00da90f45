//! Does in two directories what it is asked on its standard input, and tells what came of it: `bywash_tests::actor`.

// What cannot go on says so by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bywash_tests::actor::{
    Answer, Request, abridged,
    operation::{Caller, Operation, Step, Told},
    world::{Times, World},
};
use nix::libc::SIGXFSZ;

fn main() {
    let mapper = PathBuf::from(env::args_os().nth(1).expect("the program that maps"));
    let is_signalled = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGXFSZ, Arc::clone(&is_signalled)).unwrap();
    let mut worlds: Vec<World> = Vec::new();
    for line in io::stdin().lines() {
        let request: Request = serde_json::from_str(&line.unwrap()).unwrap();
        let answer: Option<Answer> = match request {
            Request::Begin(roots) => {
                worlds = roots.iter().map(|root| World::with_mapper(root, &mapper)).collect();
                for operation in [Operation::Umask { mask: 0o022 }, Operation::LimitFileSize { bytes: None }]
                {
                    worlds[0].perform(&Step { caller: Caller::Root, operation, is_timed: false }).unwrap();
                }
                None
            }
            Request::Perform(step) => {
                let told: Vec<_> =
                    worlds.iter_mut().map(|world| perform(world, &step, &is_signalled)).collect();
                Some(told.try_into().unwrap())
            }
        };
        println!("{}", serde_json::to_string(&answer).unwrap());
    }
}

fn perform(world: &mut World, step: &Step, is_signalled: &AtomicBool) -> Told {
    is_signalled.store(false, Ordering::Relaxed);
    let before = if step.is_timed { world.times(step) } else { Vec::new() };
    let result = world.perform(step).map(abridged).map_err(|errno| errno.raw_os_error());
    // What has failed may have touched a file all the same, as ext4's fallocate(2) does before it looks how far it may go.
    let after = if step.is_timed && result.is_ok() { world.times(step) } else { Vec::new() };
    let is_signalled = is_signalled.load(Ordering::Relaxed);
    // An operation that closes its file has nothing to tell of it.
    let both = before.into_iter().zip(after);
    let touched = both.map(|((path, before), (_, after))| {
        (path, before.zip(after).and_then(|(before, after): (Times, Times)| before.gone_on(after)))
    });
    Told { result, touched: touched.collect(), is_signalled }
}
