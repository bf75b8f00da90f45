//! Operations that the comparison leaves out, because the overlay is known to answer them otherwise.

use rustix::{
    fs::{FallocateFlags, IFlags},
    io::Errno,
};

use bywash_tests::actor::operation::{Caller, Operation, Step, Told};

/// Operations of a kind that are left out.
pub struct Exception {
    /// What is different.
    pub name: &'static str,
    /// Whether a step is one.
    is_one: fn(&Step) -> bool,
}

/// Offsets beyond this one may be too far for any file.
const NEAR_MAX: u64 = 1 << 40;

/// What FUSE makes different, for good: `forced.rs` shows each, docs/guarantees.md says so where a user can meet it.
pub const BY_NATURE: &[Exception] = &[
    Exception {
        name: "there are no files without a name",
        is_one: |step| matches!(step.operation, Operation::OpenNameless { .. }),
    },
    Exception {
        name: "a range is neither collapsed nor inserted",
        is_one: |step| {
            let moving = FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE;
            matches!(step.operation, Operation::Fallocate { mode, .. } if mode.intersects(moving))
        },
    },
    Exception {
        // The bits of others than root, and the capabilities of a file whoever writes.
        name: "a write too far out takes set-id bits and capabilities away",
        is_one: |step| match step.operation {
            Operation::WriteAt { offset: at, .. }
            | Operation::WriteWith { offset: Some(at), .. }
            | Operation::TruncateHandle { len: at, .. }
            | Operation::Truncate { len: at, .. } => at > NEAR_MAX,
            _ => false,
        },
    },
    Exception {
        // The same where the filesystem cannot do it, as tmpfs: the bits go first.
        name: "a user's range of zeros",
        is_one: |step| {
            let zeros = FallocateFlags::ZERO_RANGE;
            step.caller != Caller::Root
                && matches!(step.operation, Operation::Fallocate { mode, .. } if mode.contains(zeros))
        },
    },
    Exception {
        // The pipe in between holds pages of the file, not their bytes, which are read when they are written to their new place:
        // by then those may be overwritten. How many pages it holds at a time is up to the filesystem.
        name: "a file is sent over itself",
        is_one: |step| matches!(step.operation, Operation::SendFile { from, to, .. } if from == to),
    },
    Exception {
        // The kernel does not say that this is a chown, so a file's owner alone is held to it: others are not refused, and
        // no time of change is set.
        name: "a chown of nothing",
        is_one: |step| {
            matches!(
                step.operation,
                Operation::Chown { uid: None, gid: None, .. }
                    | Operation::ChownHandle { uid: None, gid: None, .. }
            )
        },
    },
];

/// What is still to be mended: each goes from here when it is.
pub const PENDING: &[Exception] = &[];

/// ext4 takes set-id bits away and sets the times before it looks at RLIMIT_FSIZE; FUSE's kernel side looks first.
const LIMITED: Exception = Exception {
    name: "a fallocate that may make a file larger than its caller may",
    is_one: |step| {
        let keeps_size = FallocateFlags::KEEP_SIZE;
        matches!(step.operation, Operation::Fallocate { mode, .. } if !mode.intersects(keeps_size))
    },
};

/// What the steps of a case before one say of it.
#[derive(Default)]
pub struct Past {
    /// Somebody has limited the size of the files that his process makes.
    has_limit: bool,
}

impl Past {
    /// Why a step is left out. To be asked of each step of a case, in order.
    pub fn exception(&mut self, step: &Step) -> Option<&'static Exception> {
        self.has_limit |= matches!(step.operation, Operation::LimitFileSize { bytes: Some(_) });
        let limited = Some(&LIMITED).filter(|_| self.has_limit);
        let mut known = BY_NATURE.iter().chain(PENDING).chain(limited);
        known.find(|exception| (exception.is_one)(step))
    }
}

/// By nature: the kernel knows of a FUSE file neither that nobody may change it nor that it may be appended to alone. It looks
/// at modes, limits and the like first, where without an overlay EPERM comes first. Only where a file has been made so.
pub fn is_same_refusal(steps: &[Step], plain: &Told, overlay: &Told) -> bool {
    let is_guarded = |step: &Step| match step.operation {
        Operation::SetInodeFlags { flags, .. } => flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND),
        _ => false,
    };
    let is_refused = plain.result == Err(Errno::PERM.raw_os_error()) && overlay.result.is_err();
    is_refused && steps.iter().any(is_guarded)
}
