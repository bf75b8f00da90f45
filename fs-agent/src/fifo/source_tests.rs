use std::os::unix::fs::PermissionsExt;

use super::*;

fn fifo_in(dir: &Path) -> FifoConfig {
    FifoConfig::at(dir.join("p"))
}

#[track_caller]
fn refused(fifo: &FifoConfig, is_config: bool, words: &[&str]) {
    for error in [check(fifo).err(), open_fifo(fifo).err()].into_iter().flatten() {
        assert_eq!(error.is_config(), is_config, "{error}");
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }
    assert!(open_fifo(fifo).is_err());
}

#[test]
fn what_is_no_fifo_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = FifoConfig { create: true, ..fifo_in(dir.path()) };
    let shown = fifo.path.display().to_string();
    fs::write(&fifo.path, "kept").unwrap();
    refused(&fifo, true, &[&shown, "a regular file"]);
    assert_eq!(fs::read(&fifo.path).unwrap(), b"kept");
    refused(&FifoConfig::at(dir.path().to_owned()), true, &["a directory"]);
    refused(&FifoConfig::at("/dev/null".into()), true, &["/dev/null", "a device"]);
}

#[test]
fn a_missing_fifo_is_refused_or_made_with_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = fifo_in(dir.path());
    refused(&fifo, true, &["does not exist", "mkfifo", "create = true"]);
    let fifo = FifoConfig { create: true, mode: 0o622, ..fifo };
    check(&fifo).unwrap();
    assert_eq!(look(&fifo.path).unwrap(), Found::Nothing, "a check makes nothing");
    let opened = open_fifo(&fifo).unwrap();
    assert_eq!(look(&fifo.path).unwrap(), Found::Fifo(opened.id));
    assert_eq!(fs::metadata(&fifo.path).unwrap().permissions().mode() & 0o7777, 0o622);
    drop(opened);
    let other = FifoConfig { mode: 0o600, ..fifo };
    open_fifo(&other).unwrap();
    assert_eq!(fs::metadata(&other.path).unwrap().permissions().mode() & 0o7777, 0o622, "taken as it is");
}

#[test]
fn a_fifo_is_made_for_whom_it_shall_belong_to() {
    let dir = tempfile::tempdir().unwrap();
    let owned = |owner: Option<&str>, group: Option<&str>| FifoConfig {
        create: true,
        owner: owner.map(str::to_owned),
        group: group.map(str::to_owned),
        ..fifo_in(dir.path())
    };
    refused(&owned(Some("no-such-user"), None), true, &["user", "no-such-user"]);
    refused(&owned(None, Some("no-such-group")), true, &["group", "no-such-group"]);
    if !nix::unistd::geteuid().is_root() {
        return println!("the rest is skipped: only root can give a file away");
    }
    let fifo = owned(Some("nobody"), Some("daemon"));
    open_fifo(&fifo).unwrap();
    let made = fs::metadata(&fifo.path).unwrap();
    let (user, group) =
        (User::from_name("nobody").unwrap().unwrap(), Group::from_name("daemon").unwrap().unwrap());
    assert_eq!((made.uid(), made.gid()), (user.uid.as_raw(), group.gid.as_raw()));
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = FifoConfig { create: true, ..FifoConfig::at(dir.path().join("gone/p")) };
    refused(&fifo, true, &["gone/p", "directory", "does not exist"]);
}

#[test]
fn a_fifo_is_read_once_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = FifoConfig { create: true, ..fifo_in(dir.path()) };
    let first = open_fifo(&fifo).unwrap();
    assert!(matches!(open_fifo(&fifo), Err(Unusable::Held { .. })));
    drop(first);
    open_fifo(&fifo).unwrap();
}

#[test]
fn a_pipe_is_made_larger_and_never_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = FifoConfig { create: true, pipe_size: ByteSize(256 << 10), ..fifo_in(dir.path()) };
    let opened = open_fifo(&fifo).unwrap();
    assert_eq!(opened.pipe_bytes, 256 << 10);
    assert_eq!(enlarge(&opened.fd, 4096, &fifo.path), 256 << 10);
}

#[test]
fn a_strangers_link_leads_nowhere() {
    if !nix::unistd::geteuid().is_root() {
        return println!("skipped: only root can give a link to somebody else");
    }
    let dir = tempfile::tempdir().unwrap();
    let (roots, link) = (FifoConfig { create: true, ..fifo_in(dir.path()) }, dir.path().join("link"));
    drop(open_fifo(&roots).unwrap());
    std::os::unix::fs::symlink(&roots.path, &link).unwrap();
    let through = FifoConfig::at(link.clone());
    open_fifo(&through).unwrap();
    std::os::unix::fs::lchown(&link, Some(4000), None).unwrap();
    let error = open_fifo(&through).unwrap_err();
    assert!(error.is_config() && error.to_string().contains("uid 4000"), "{error}");
    // To one's own anybody may.
    std::os::unix::fs::chown(&roots.path, Some(4000), None).unwrap();
    open_fifo(&through).unwrap();
}
