use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

const UNIQUE: u64 = 0x1234_5678;

/// A request as the kernel makes it.
fn request(opcode: Opcode, arguments: &[&[u8]]) -> Vec<u8> {
    let arguments = arguments.concat();
    let len = u32::try_from(size_of::<InHeader>() + arguments.len()).unwrap();
    let header = InHeader {
        len,
        opcode: opcode as u32,
        unique: UNIQUE,
        nodeid: 7,
        uid: 1000,
        gid: 100,
        pid: 4711,
        total_extlen: 0,
        padding: 0,
    };
    [header.as_bytes(), &arguments].concat()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Two 32-bit numbers side by side.
fn two(first: u32, second: u32) -> u64 {
    let bytes = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
    u64::from_ne_bytes(bytes.try_into().unwrap())
}

/// One of each operation that has arguments: what the kernel sends, and what is to be read.
fn corpus() -> Vec<(Opcode, Vec<u8>, &'static str)> {
    use Opcode::*;
    let setattr =
        words(&[two(0b11_1000, 0), 5, 6, 0, 8, 9, 10, two(11, 12), two(13, 0o644), two(0, 15), two(16, 0)]);
    let write = [words(&[3, 4096, two(5, 1), 0, two(0o2001, 0)]), b"data\0".to_vec()].concat();
    let read = words(&[3, 4096, two(512, 0), 0, two(0, 0)]);
    let forgets = words(&[two(2, 0), 11, 1, 12, 2]);
    let ioctl = [words(&[3, two(2, 0x6601), 0xdead, two(4, 8)]), b"abcd".to_vec()].concat();
    vec![
        (Lookup, b"name\0".to_vec(), r#"Lookup { name: "name" }"#),
        (Forget, words(&[3]), "Forget { lookups: 3 }"),
        (BatchForget, forgets, "BatchForget([(11, 1), (12, 2)])"),
        (SetAttr, setattr, "SetAttr valid 38 size 6 atime 8.11 mtime 9.12 mode 1a4 uid 15 gid 16"),
        (Symlink, b"link\0../target\0".to_vec(), r#"Symlink { name: "link", target: "../target" }"#),
        (
            Mknod,
            [words(&[two(0o10644, 9), two(0o22, 0)]), b"fifo\0".to_vec()].concat(),
            "Mknod fifo 11a4 9 12",
        ),
        (Mkdir, [words(&[two(0o755, 0o22)]), b"dir\0".to_vec()].concat(), "Mkdir dir 1ed 12"),
        (Unlink, b"gone\0".to_vec(), r#"Unlink { name: "gone" }"#),
        (Rmdir, b"gone\0".to_vec(), r#"Rmdir { name: "gone" }"#),
        (
            Rename,
            [words(&[8]), b"old\0new\0".to_vec()].concat(),
            r#"Rename { name: "old", new_parent: 8, new_name: "new", flags: 0 }"#,
        ),
        (
            Rename2,
            [words(&[8, two(2, 0)]), b"old\0new\0".to_vec()].concat(),
            r#"Rename { name: "old", new_parent: 8, new_name: "new", flags: 2 }"#,
        ),
        (Link, [words(&[9]), b"hard\0".to_vec()].concat(), r#"Link { node: 9, name: "hard" }"#),
        (Open, words(&[two(0o2001, 0)]), "Open { flags: 1025 }"),
        (
            Create,
            [words(&[two(0o101, 0o644), two(0o22, 0)]), b"new\0".to_vec()].concat(),
            "Create new 65 1a4 18",
        ),
        (Read, read.clone(), "Read 3 4096 512"),
        (Write, write, "Write 3 4096 1 401 [100, 97, 116, 97, 0]"),
        (Flush, words(&[3, 0, 4]), "Flush { handle: 3 }"),
        (Release, words(&[3, two(1, 0), 0]), "Release { handle: 3 }"),
        (Fsync, words(&[3, two(1, 0)]), "Fsync { handle: 3, data_only: true }"),
        (FsyncDir, words(&[3, two(0, 0)]), "FsyncDir { handle: 3, data_only: false }"),
        (ReadDir, read.clone(), "ReadDir 3 4096 512"),
        (ReadDirPlus, read, "ReadDirPlus 3 4096 512"),
        (ReleaseDir, words(&[3, 0, 0]), "ReleaseDir { handle: 3 }"),
        (
            SetXattr,
            [words(&[two(2, 1)]), b"user.a\0\0v".to_vec()].concat(),
            r#"SetXattr { name: "user.a", value: [0, 118], flags: 1 }"#,
        ),
        (
            GetXattr,
            [words(&[two(64, 0)]), b"user.a\0".to_vec()].concat(),
            r#"GetXattr { name: "user.a", size: 64 }"#,
        ),
        (ListXattr, words(&[two(64, 0)]), "ListXattr { size: 64 }"),
        (RemoveXattr, b"user.a\0".to_vec(), r#"RemoveXattr { name: "user.a" }"#),
        (Fallocate, words(&[3, 10, 20, two(1, 0)]), "Fallocate 3 10 20 1"),
        (Lseek, words(&[3, 10, two(4, 0)]), "Lseek 3 10 4"),
        (Ioctl, ioctl, "Ioctl 3 2 26113 8 [97, 98, 99, 100]"),
    ]
}

/// An operation, as the corpus says it.
fn said(operation: &Operation<'_>) -> String {
    match operation {
        Operation::BatchForget(forgets) => format!("BatchForget({:?})", forgets.iter().collect::<Vec<_>>()),
        Operation::SetAttr(s) => format!(
            "SetAttr valid {:x} size {} atime {}.{} mtime {}.{} mode {:x} uid {} gid {}",
            s.valid, s.size, s.atime, s.atimensec, s.mtime, s.mtimensec, s.mode, s.uid, s.gid
        ),
        Operation::Mknod { name, how } => {
            format!("Mknod {} {:x} {} {:x}", name.display(), how.mode, how.rdev, how.umask)
        }
        Operation::Mkdir { name, how } => format!("Mkdir {} {:x} {:x}", name.display(), how.mode, how.umask),
        Operation::Create { name, how } => {
            format!("Create {} {} {:x} {}", name.display(), how.flags, how.mode, how.umask)
        }
        Operation::Read(how) => format!("Read {} {} {}", how.fh, how.offset, how.size),
        Operation::ReadDir(how) => format!("ReadDir {} {} {}", how.fh, how.offset, how.size),
        Operation::ReadDirPlus(how) => format!("ReadDirPlus {} {} {}", how.fh, how.offset, how.size),
        Operation::Write { how, data } => {
            format!("Write {} {} {} {:x} {data:?}", how.fh, how.offset, how.write_flags, how.flags)
        }
        Operation::Fallocate(how) => {
            format!("Fallocate {} {} {} {}", how.fh, how.offset, how.length, how.mode)
        }
        Operation::Lseek(how) => format!("Lseek {} {} {}", how.fh, how.offset, how.whence),
        Operation::Ioctl { how, data } => {
            format!("Ioctl {} {} {} {} {data:?}", how.fh, how.flags, how.cmd, how.out_size)
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn each_operation_is_read_as_it_was_sent() {
    for (opcode, arguments, expected) in corpus() {
        let bytes = request(opcode, &[&arguments]);
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(said(&request.operation), expected);
        let header = request.header;
        assert_eq!(
            (header.unique, header.nodeid, header.uid, header.gid, header.pid),
            (UNIQUE, 7, 1000, 100, 4711)
        );
        assert!(!request.is_resent());
    }
}

#[test]
fn arguments_that_end_early_are_no_request() {
    for (opcode, arguments, _) in corpus() {
        // The kernel sends more to open than is looked at.
        for len in 0..arguments.len() {
            let cut = request(opcode, &[&arguments[..len]]);
            let expected = Malformed::Arguments { unique: UNIQUE, opcode: opcode as u32 };
            match Request::parse(&cut) {
                Err(malformed) => assert_eq!(malformed, expected),
                Ok(parsed) => panic!("{opcode:?} of {len} bytes: {parsed:?}"),
            }
        }
    }
}

#[test]
fn what_is_shorter_than_it_says_is_no_request() {
    let whole = request(Opcode::StatFs, &[b"12345678"]);
    assert!(matches!(Request::parse(&whole).unwrap().operation, Operation::StatFs));
    for len in 0..whole.len() {
        let short = Request::parse(&whole[..len]).unwrap_err();
        assert!(matches!(short, Malformed::Short { got, .. } if got == len), "{short}");
    }
    // A length that does not even hold the header.
    let mut lying = whole;
    lying[..4].copy_from_slice(&8_u32.to_ne_bytes());
    assert!(matches!(Request::parse(&lying), Err(Malformed::Arguments { .. })));
}

#[test]
fn operations_without_arguments_and_unknown_ones_are_told_apart() {
    for (opcode, arguments, _) in corpus() {
        let bytes = request(opcode, &[&arguments]);
        assert!(!matches!(Request::parse(&bytes).unwrap().operation, Operation::Other), "{opcode:?}");
    }
    let mut unknown = request(Opcode::StatFs, &[]);
    unknown[4..8].copy_from_slice(&4096_u32.to_ne_bytes());
    assert!(matches!(Request::parse(&unknown).unwrap().operation, Operation::Other));
    for opcode in [Opcode::CopyFileRange, Opcode::Statx, Opcode::Poll, Opcode::Access, Opcode::SetLkw] {
        let bytes = request(opcode, &[]);
        assert!(matches!(Request::parse(&bytes).unwrap().operation, Operation::Other));
    }
}

#[test]
fn what_the_kernel_sends_once_more_is_told_apart() {
    let mut bytes = request(Opcode::GetAttr, &[&[0; 16]]);
    bytes[8..16].copy_from_slice(&(UNIQUE | super::super::wire::UNIQUE_RESEND).to_ne_bytes());
    assert!(Request::parse(&bytes).unwrap().is_resent());
}

proptest! {
    /// Any bytes, at any address; then any bytes behind a header that is right.
    #[test]
    fn any_bytes_are_a_request_or_an_error(bytes: Vec<u8>, opcode in 0_u32..60, shift in 0_usize..8) {
        let shifted = [vec![0; shift], bytes.clone()].concat();
        let _ = Request::parse(&shifted[shift..]);
        let mut headed = request(Opcode::StatFs, &[&bytes]);
        headed[4..8].copy_from_slice(&opcode.to_ne_bytes());
        let headed = [vec![0; shift], headed].concat();
        if let Ok(Request { operation: Operation::BatchForget(forgets), .. }) = Request::parse(&headed[shift..]) {
            prop_assert!(forgets.iter().count() * size_of::<ForgetOne>() <= bytes.len());
        }
    }
}
