//! What a supervisor keeps for its agent. All of its memory is there from the start.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::resource::{Resource, getrlimit};

use crate::fd_store::{KEPT_MAX, STOP_NAME};

/// The longest name of a descriptor, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The most bytes of all names, with what stands between them: they are handed over in one variable of the environment, of
/// which the kernel takes 128 KiB (MAX_ARG_STRLEN).
const NAMES_BYTES_MAX: usize = 124 << 10;

/// A name, in place.
#[derive(Clone, Copy)]
struct Label {
    bytes: [u8; NAME_BYTES_MAX],
    len: u8,
}

impl Label {
    /// None for what could not be handed over, or would be taken for the supervisor's own.
    fn new(name: &str) -> Option<Self> {
        let is_fit = |b: u8| b.is_ascii_graphic() && b != b':';
        if name.is_empty() || name == STOP_NAME || !name.bytes().all(is_fit) {
            return None;
        }
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { bytes, len: u8::try_from(name.len()).ok()? })
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

/// How many descriptors a supervisor has for other things than what it keeps.
const OTHERS_MAX: usize = 32;

/// How many can be kept with this process's limit of open files: while they are handed over, each is there twice.
pub fn most() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    let room = usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(OTHERS_MAX);
    (room / 2).min(KEPT_MAX)
}

/// Descriptors by their names.
pub struct Kept {
    all: Vec<(Label, OwnedFd)>,
    /// How many there can be.
    most: usize,
}

impl Kept {
    /// Nothing yet, and room for `most`.
    pub fn new(most: usize) -> Self {
        Self { all: Vec::with_capacity(most), most }
    }

    /// Keeps a descriptor. Gives whether there is room, and the name fit.
    pub fn keep(&mut self, name: &str, fd: OwnedFd) -> bool {
        let Some(label) = Label::new(name) else { return false };
        let taken: usize = self.names().map(|name| name.len() + 1).sum();
        let has_room = self.all.len() < self.most && taken + name.len() < NAMES_BYTES_MAX;
        if has_room {
            self.all.push((label, fd));
        }
        has_room
    }

    /// Lets go of all that is kept under a name.
    pub fn let_go(&mut self, name: &str) {
        self.all.retain(|(label, _)| label.as_str() != name);
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.all.clear();
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The names of what is kept.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(label, _)| label.as_str())
    }

    /// What is kept, as the names are.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().map(|(_, fd)| fd.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_kept_is_there_until_it_is_let_go_of() {
        let mut kept = Kept::new(KEPT_MAX);
        assert!(kept.keep("a", descriptor()) && kept.keep("b", descriptor()) && kept.keep("a", descriptor()));
        assert_eq!(kept.names().collect::<Vec<_>>(), ["a", "b", "a"]);
        kept.let_go("a");
        assert_eq!(kept.names().collect::<Vec<_>>(), ["b"]);
        assert_eq!(kept.descriptors().count(), 1);
        kept.let_go("c");
        kept.clear();
        assert!(kept.is_empty());
    }

    #[test]
    fn names_that_cannot_be_handed_over_are_refused() {
        let mut kept = Kept::new(KEPT_MAX);
        for name in ["", "a:b", "a b", "a\n", "é", STOP_NAME, &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(!kept.keep(name, descriptor()), "{name}");
        }
        assert!(kept.keep(&"n".repeat(NAME_BYTES_MAX), descriptor()));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let mut kept = Kept::new(2);
        assert_eq!(["a", "b", "c"].map(|name| kept.keep(name, descriptor())), [true, true, false]);
    }

    #[test]
    fn no_more_is_kept_than_an_environment_can_name() {
        let mut kept = Kept::new(KEPT_MAX);
        let name = "n".repeat(NAME_BYTES_MAX);
        let held = File::open("/dev/null").unwrap();
        // Each takes a descriptor of this process, of which there may be few.
        let mut count = 0;
        while let Ok(fd) = held.try_clone() {
            if !kept.keep(&name, fd.into()) {
                break;
            }
            count += 1;
        }
        assert!(count <= KEPT_MAX && count * (NAME_BYTES_MAX + 1) <= NAMES_BYTES_MAX);
    }
}
