//! Notices that something is mounted or unmounted.

use std::{fs::File, io, os::fd::AsFd, sync::mpsc::Sender, thread, time::Duration};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::event::Event;

/// How long changes are gathered after one that was reported: who mounts in a loop costs others no more than a look in
/// this time.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// Reports changes of this process's table of mounts as events, until nobody listens.
///
/// # Errors
/// If the table cannot be opened, or there can be no thread.
pub fn watch(events: Sender<Event>) -> io::Result<()> {
    let table = File::open("/proc/self/mountinfo")?;
    let watch = move || {
        loop {
            let mut wanted = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
            if poll(&mut wanted, PollTimeout::NONE).is_err_and(|errno| errno != nix::errno::Errno::EINTR) {
                return tracing::warn!(
                    "what is mounted from now on below watched directories is not noticed"
                );
            }
            if events.send(Event::MountsChanged).is_err() {
                return;
            }
            // What changes meanwhile is reported by the next poll, at once.
            thread::sleep(GATHER_TIME);
        }
    };
    thread::Builder::new().name("mounts".to_owned()).spawn(watch).map(drop)
}
