//! An overlay as a successor finds it: the kernel goes on with what it was told by a process that is no more.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{OFlags, fstatfs},
    io::Errno,
};

use super::{
    Caller, Limits, OpenDir, OpenFile, Overlay, Shared,
    forgotten::Inherited,
    handle::{DirStream, Open},
    inode::{BySlot, Inodes, ROOT},
    links::Names,
    own_fds,
    park::{Parked, Parking},
    root_id,
};
use crate::state::{
    Left, Slot,
    journal::Request,
    slots::{DirFacts, HandleFacts, LinkFacts},
};

/// Why an overlay cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The descriptor is of another directory than the state speaks of.
    #[error("the directory is another than the overlay was over")]
    OtherRoot,
    /// What the state says cannot be.
    #[error("the overlay's state is damaged: {0}")]
    Damaged(&'static str),
    /// The directory cannot be examined.
    #[error("the directory below cannot be examined: {0}")]
    System(#[from] Errno),
}

/// What has come back with an overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files and directories that the kernel knows.
    pub nodes: usize,
    /// Open files.
    pub files: usize,
    /// Open directories.
    pub dirs: usize,
}

/// A request that is about to be done.
pub struct Begun {
    /// It: what is done for it is done [during](Request::during) it, and it is dropped once its answer has left.
    pub request: Request,
    /// An open that nobody was told of, and that is closed again.
    pub closed: Option<Arc<OpenFile>>,
}

impl Overlay {
    /// Goes on with the overlay that `left` speaks of. `root` holds the directory below with O_PATH; `parked` are the descriptors
    /// that [`super::Park`] has kept.
    ///
    /// # Errors
    /// If `root` is not the directory, or the state says what cannot be. The state is then as it was.
    pub fn restore(
        root: OwnedFd,
        left: Left,
        parked: HashMap<Parked, OwnedFd>,
        shared: &Shared,
        limits: Limits,
    ) -> Result<(Self, Restored), RestoreError> {
        let Left { state, nodes, links, handles, dirs } = left;
        if root_id(&root)? != state.root() {
            return Err(RestoreError::OtherRoot);
        }
        let fs_type = fstatfs(&root)?.f_type;
        let own_fds = own_fds()?;
        let all_parked: HashSet<Parked> = parked.keys().copied().collect();
        let (inodes, by_slot) = Inodes::restore(root, &state, nodes, limits, &own_fds)?;
        let mut void = take_up_links(&by_slot, links)?;
        let path = state.path();
        let mut overlay = Self::with(&path, shared, Arc::clone(&state), inodes, own_fds, fs_type);
        overlay.parking = Parking::of(all_parked);
        void.extend(overlay.take_up_files(&by_slot, handles)?);
        overlay.take_up_parked(parked);
        void.extend(overlay.take_up_dirs(&by_slot, dirs)?);
        state.go_live();
        // What nothing refers to any more is free from here on.
        drop((void, by_slot));
        overlay.inherited = Inherited::of(overlay.inodes.lookups());
        let restored = Restored {
            nodes: overlay.inodes.count(),
            files: overlay.files.all().len(),
            dirs: overlay.dirs.all().len(),
        };
        Ok((overlay, restored))
    }

    /// Takes open files up; they are opened again once they are used. Gives slots that are void.
    fn take_up_files(&self, by_slot: &BySlot, slots: Vec<Slot>) -> Result<Vec<Slot>, RestoreError> {
        let mut void = Vec::new();
        for slot in slots {
            let facts = HandleFacts::of(&slot).ok_or(RestoreError::Damaged("an open file"))?;
            let Some(inode) = by_slot.get(facts.node) else {
                void.push(slot);
                continue;
            };
            self.check_number(facts.id)?;
            let (sure, link) = (facts.is_sure, inode.links.by_id(facts.link));
            let names = if sure { Names::One } else { Names::Several };
            let path = self.path_by(inode, link.or_else(|| inode.links.first()), names);
            let opener = Caller { uid: facts.uid, gid: facts.gid, thread: 0 };
            let share = (self.opens.keep(facts.uid), Open::new(inode));
            let (flags, inode) = (OFlags::from_bits_retain(facts.flags), Arc::clone(inode));
            let file = OpenFile::of(facts.id, slot, inode, OnceLock::new(), flags, opener, path, share);
            self.files.put(facts.id, file);
        }
        Ok(void)
    }

    /// As [`Self::take_up_files`], directories. A stream is read on from where the kernel says.
    fn take_up_dirs(&self, by_slot: &BySlot, slots: Vec<Slot>) -> Result<Vec<Slot>, RestoreError> {
        let mut void = Vec::new();
        for slot in slots {
            let facts = DirFacts::of(&slot).ok_or(RestoreError::Damaged("an open directory"))?;
            let Some(inode) = by_slot.get(facts.node) else {
                void.push(slot);
                continue;
            };
            self.check_number(facts.id)?;
            let share = (self.opens.keep(facts.uid), Open::new(inode));
            let inode = Arc::clone(inode);
            let (below, stream) = (OnceLock::new(), DirStream::default().into());
            self.dirs.put(facts.id, OpenDir { id: facts.id, slot, inode, below, stream, _share: share });
        }
        Ok(void)
    }

    fn check_number(&self, handle: u64) -> Result<(), RestoreError> {
        let is_one_of_two = self.files.get(handle).is_ok() || self.dirs.get(handle).is_ok();
        if is_one_of_two || handle > self.state.highest_handle() {
            return Err(RestoreError::Damaged("a handle that was not given"));
        }
        Ok(())
    }

    /// Opens all files again that a predecessor had open and nobody has used since: before what leads to them goes. Says how many
    /// cannot be: those answer EIO, and the log has said which. To be called by a thread of its own: nobody waits for it.
    pub fn open_again(&self) -> usize {
        self.files.all().iter().filter(|file| !self.comes_back(file)).count()
    }

    /// Opens `file` again, as who has opened it. Says whether it can be.
    fn comes_back(&self, file: &OpenFile) -> bool {
        let _ = self.identity.assume(file.opener);
        let opened = file.below(OFlags::NONBLOCK).map(drop);
        let _ = self.identity.assume(Caller { uid: 0, gid: 0, thread: 0 });
        // Whatever else is in the way may be gone when it is used.
        opened != Err(Errno::IO)
    }

    /// A request with number `unique` is about to be done: to be called before anything else is done for it. If a predecessor
    /// was at it, what that has counted and opened for an answer that has not left is taken back. `hint` is a small number that
    /// tells the calling thread from others.
    pub fn begin(&self, hint: usize, unique: u64, operation: u32) -> Begun {
        let request = self.state.journal.begin(hint, unique, operation);
        let Some(before) = request.cut_short() else { return Begun { request, closed: None } };
        let forgotten = self.inodes.take_back(&request);
        forgotten.iter().for_each(|inode| self.take_back_parked(Some(inode)));
        let closed = before.opening.and_then(|handle| {
            self.dirs.remove(handle);
            self.files.remove(handle)
        });
        Begun { request, closed }
    }
}

/// Gives inodes their names. Gives slots that are void: of names whose file is gone.
fn take_up_links(by_slot: &BySlot, slots: Vec<Slot>) -> Result<Vec<Slot>, RestoreError> {
    let mut void = Vec::new();
    let mut links = Vec::with_capacity(slots.len());
    for slot in slots {
        let facts = LinkFacts::of(&slot).ok_or(RestoreError::Damaged("a name"))?;
        match by_slot.get(facts.parent) {
            Some(parent) if by_slot.get(facts.node).is_some_and(|inode| inode.id != ROOT) => {
                links.push((facts, Arc::clone(parent), slot));
            }
            _ => void.push(slot),
        }
    }
    links.sort_by_key(|(facts, _, _)| (facts.node, facts.order));
    let mut links = links.into_iter().peekable();
    while let Some(node) = links.peek().map(|(facts, _, _)| facts.node) {
        let of_node = std::iter::from_fn(|| links.next_if(|(facts, _, _)| facts.node == node));
        match by_slot.get(node) {
            Some(inode) => inode.links.take_up(of_node),
            None => void.extend(of_node.map(|(_, _, slot)| slot)),
        }
    }
    Ok(void)
}
