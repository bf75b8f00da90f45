use std::{
    os::fd::AsRawFd,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use bywash_common::config::OnAgentExit;
use rustix::{
    fs::{Mode, OFlags, openat},
    io::read,
};

use super::{
    super::{
        reply::Reply,
        request::{Operation, Request},
        wire::Attr,
    },
    *,
};
use crate::{
    mount::{
        self, Connected,
        label::{Label, Part},
    },
    privilege::may_administer,
};

const SOON: Duration = Duration::from_secs(20);
const NODE: u64 = 4711;

/// A filesystem that nobody answers for yet, with its root; none where nothing can be mounted.
fn connected() -> Option<(Arc<Connection>, OwnedFd)> {
    if !may_administer() {
        println!("skipped: only root can mount");
        return None;
    }
    let below = tempfile::tempdir().unwrap();
    let label = Label { part: Part::Directory, on_agent_exit: OnAgentExit::Unmount, ring: "test".to_owned() };
    let wishes = Wishes { write_bytes_max: 4096, ..Wishes::default() };
    let fd = mount::walk::open_dir(&below.path().canonicalize().unwrap()).unwrap();
    let Connected { connection, root, .. } = mount::connect(fd.as_fd(), &label, wishes).unwrap();
    assert_eq!(connection.negotiated().max_write, 4096);
    Some((Arc::new(connection), root))
}

/// Looks `name` up from another thread, and says what came of it.
fn look_up(root: &OwnedFd, name: &'static str) -> Receiver<Result<OwnedFd>> {
    let (root, (answer, answered)) = (root.try_clone().unwrap(), channel());
    thread::spawn(move || answer.send(openat(&root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())));
    answered
}

/// The next request, but for those about the root itself, which are answered, and what is forgotten.
fn next(connection: &Connection) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = read(connection, &mut buffer).unwrap();
        let request = Request::parse(&buffer[..len]).unwrap();
        match request.operation {
            Operation::GetAttr => {}
            Operation::Forget { .. } | Operation::BatchForget(_) => continue,
            _ => break buffer[..len].to_vec(),
        }
        let attr = Attr { ino: super::super::wire::ROOT, mode: 0o4_0755, nlink: 2, ..Attr::default() };
        Reply::new(connection, request.header.unique, &mut || {}).attr(&attr, SOON);
    }
}

/// Answers a look-up with a file.
fn answer(connection: &Connection, bytes: &[u8]) {
    let request = Request::parse(bytes).unwrap();
    assert!(matches!(request.operation, Operation::Lookup { name } if name == "file"), "{request:?}");
    let attr = Attr { ino: NODE, mode: 0o10_0644, nlink: 1, ..Attr::default() };
    let mut answers = 0;
    let mut before = || answers += 1;
    Reply::new(connection, request.header.unique, &mut before).entry(&attr, SOON);
    assert_eq!(answers, 1);
}

#[test]
fn who_waits_for_requests_is_woken_by_a_file_that_the_kernel_knows() {
    let Some((connection, root)) = connected() else { return };
    assert_eq!(connection.wake_reader(), Err(Errno::NOENT), "none is known");
    assert!(!connection.knows(NODE));
    let found = look_up(&root, "file");
    answer(&connection, &next(&connection));
    // Held, so that the kernel does not forget it.
    let _file = found.recv_timeout(SOON).unwrap().expect("a file");
    assert!(connection.knows(NODE) && connection.knows(super::super::wire::ROOT));
    let (woken, is_woken) = channel();
    let reader = Arc::clone(&connection);
    thread::spawn(move || woken.send(next(&reader)));
    connection.wake_reader().expect("a reader can be woken");
    let bytes = is_woken.recv_timeout(SOON).expect("somebody woke up");
    let request = Request::parse(&bytes).unwrap();
    assert!(matches!(request.operation, Operation::NotifyReply) && is_waking(request.header.unique));
}

#[test]
fn what_was_read_and_not_answered_comes_once_more_to_who_resumes() {
    let Some((connection, root)) = connected() else { return };
    let found = look_up(&root, "file");
    let first = next(&connection);
    let negotiated = Negotiated::from_bytes(&connection.negotiated().to_bytes()).unwrap();
    let resumed = Connection::resume(connection.as_fd().try_clone_to_owned().unwrap(), negotiated);
    match resumed.resend() {
        Err(Errno::INVAL) => return println!("skipped: this kernel sends nothing once more (Linux 6.9)"),
        sent => sent.unwrap(),
    }
    let again = next(&resumed);
    let [once, twice] = [&first, &again].map(|bytes| Request::parse(bytes).unwrap());
    assert!(!once.is_resent() && twice.is_resent());
    assert_eq!(twice.header.unique, once.header.unique | super::super::wire::UNIQUE_RESEND);
    answer(&resumed, &again);
    found.recv_timeout(SOON).unwrap().expect("a file");
}

#[test]
fn what_is_not_answered_is_an_error() {
    let Some((connection, root)) = connected() else { return };
    let found = look_up(&root, "file");
    let bytes = next(&connection);
    let unique = Request::parse(&bytes).unwrap().header.unique;
    drop(Reply::new(&connection, unique, &mut || {}));
    assert_eq!(found.recv_timeout(SOON).unwrap().err(), Some(Errno::IO));
}

#[test]
fn it_ends_when_nobody_has_the_filesystem_any_more() {
    let Some((connection, root)) = connected() else { return };
    assert!(!connection.has_ended());
    drop(root);
    let begin = Instant::now();
    while !connection.has_ended() {
        assert!(begin.elapsed() < SOON, "{} is still there", connection.as_fd().as_raw_fd());
        thread::yield_now();
    }
    assert_eq!(read(&*connection, &mut vec![0; 1 << 20]), Err(Errno::NODEV));
}

#[test]
fn files_that_the_kernel_reads_itself_have_numbers_of_their_connection() {
    let Some((connection, _root)) = connected() else { return };
    if !connection.negotiated().passthrough() {
        return println!("skipped: this kernel reads no files itself (Linux 6.9)");
    }
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let backed = match connection.back(file.as_file().as_fd()) {
        Err(error) => return println!("skipped: {error}"),
        Ok(backed) => backed,
    };
    let number = backed.number();
    assert_ne!(number, 0);
    drop(backed);
    assert_eq!(sys::close_backing(connection.as_fd(), number), Err(Errno::NOENT), "closed with what held it");
}
