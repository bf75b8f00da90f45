//! The names by which a file is reached, and which of them an open has used.
//!
//! The kernel opens a file without saying by which name. A file with one name leaves no doubt. Of one with several the
//! kernel may not remember names: it asks for each of them whenever it is used, in the thread that uses it, right before
//! that opens the file. So what a thread asked for last is the name of its open. Where there is no such question
//! (an open through /proc, a thread that this process does not see), or where the kernel may still remember a name from when
//! it was the only one, the name is not sure, and the oldest stands for all: no look-up of somebody else changes it.

use std::{
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use smallvec::SmallVec;

use super::{inode::Inode, lock};
use crate::state::{
    Slot, State, journal,
    slots::{LinkFacts, NAME_BYTES_MAX, link},
};

/// How long the kernel remembers the only name of a file.
pub const NAME_TTL: Duration = Duration::from_secs(1);

/// When it surely does not any more: its time begins when it has the answer.
const NAME_TTL_MAX_MS: u64 = 2_000;

/// The most names of one file that are remembered without anybody who uses them.
const LINKS_MAX: usize = 8;

/// How many look-ups of files with several names are remembered. Between a thread's question and its open come no more,
/// but for a thread that is held up in between: its name is not sure then.
const LOOKUPS_MAX: usize = 1024;

/// A name up to this length is kept beside what is known of it.
const SHORT_NAME_BYTES: usize = 24;

/// A name by which a file is reached.
#[derive(Debug)]
pub struct Link {
    /// The same for a name and what it is renamed to; of one file.
    id: u64,
    /// What a successor has to know of it, and where among the file's names it is. Given back before the directory, to which it
    /// refers.
    slot: Slot,
    /// When the kernel was last told to remember it, in milliseconds of the monotonic clock; 0 if never. A successor knows only
    /// whether it was.
    told_ms: AtomicU64,
    /// The directory it is in.
    pub parent: Arc<Inode>,
    /// It. Most are short enough to need no memory of their own.
    pub name: SmallVec<[u8; SHORT_NAME_BYTES]>,
    /// Cleared when the name is removed, renamed or given to another file.
    live: AtomicBool,
}

impl Link {
    /// Whether the name still leads to the file, as far as the overlay knows.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    fn is(&self, parent: &Inode, name: &OsStr) -> bool {
        self.is_live() && self.parent.id == parent.id && *self.name == *name.as_bytes()
    }

    /// The same for a name and what it is renamed to; of one file.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn end(&self) {
        self.live.store(false, Ordering::Release);
        self.slot.set(link::IS_LIVE, 0);
    }

    /// It is not among the file's names any more, whoever remembers it.
    fn leave(&self) {
        self.slot.set(link::NODE, 0);
    }

    fn order(&self) -> i64 {
        self.slot.get(link::ORDER).cast_signed()
    }

    fn told_ms(&self) -> u64 {
        self.told_ms.load(Ordering::Acquire)
    }

    /// The kernel is about to be told to remember it.
    fn tell(&self) {
        // The slot first: whoever finds the time may tell the kernel at once.
        if self.told_ms() == 0 {
            self.slot.set(link::TOLD, link::IS_TOLD);
        }
        self.told_ms.store(now_ms(), Ordering::Release);
    }

    fn may_be_remembered(&self, now_ms: u64) -> bool {
        let told_ms = self.told_ms();
        told_ms != 0 && now_ms.saturating_sub(told_ms) <= NAME_TTL_MAX_MS
    }
}

/// The names of one file.
#[derive(Debug)]
pub struct Links {
    state: Arc<State>,
    /// The slot of the file's node.
    node: Option<u32>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The oldest first. A removed name stays if it is the last: it is where the file was known.
    links: SmallVec<[Arc<Link>; 1]>,
    next_id: u64,
    /// A name that leads to the file was left out.
    incomplete: bool,
}

/// Whether a file has other names than one that is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// None. It is where the file is now, whatever was known.
    One,
    /// It may.
    Several,
}

impl Links {
    /// None yet, of the file whose node is in slot `node`.
    pub fn new(state: &Arc<State>, node: Option<u32>) -> Self {
        Self { state: Arc::clone(state), node, known: Mutex::default() }
    }

    /// Those that a predecessor knew, in their order, each with its directory and its slot.
    pub fn take_up(&self, left: impl Iterator<Item = (LinkFacts, Arc<Inode>, Slot)>) {
        let mut known = lock(&self.known);
        for (LinkFacts { id, name, is_live, is_told, .. }, parent, slot) in left {
            known.next_id = known.next_id.max(id);
            let (name, live) = (SmallVec::from_vec(name), AtomicBool::new(is_live));
            // That was before now.
            let told_ms = AtomicU64::new(if is_told { now_ms() } else { 0 });
            known.links.push(Arc::new(Link { id, parent, name, live, slot, told_ms }));
        }
        known.incomplete = known.links.len() >= LINKS_MAX;
        known.drop_dead();
    }

    /// The name with this number.
    pub fn by_id(&self, id: u64) -> Option<Arc<Link>> {
        lock(&self.known).links.iter().find(|link| link.id == id).cloned()
    }

    /// The name that stands for the file: the oldest that leads there, or else the last that did. The root has none.
    pub fn first(&self) -> Option<Arc<Link>> {
        let known = lock(&self.known);
        known.links.iter().find(|link| link.is_live()).or_else(|| known.links.first()).cloned()
    }

    /// The only name, if there is no other that the kernel could have used.
    pub fn sole(&self) -> Option<Arc<Link>> {
        let known = lock(&self.known);
        let mut live = known.links.iter().filter(|link| link.is_live());
        let first = live.next().cloned();
        if known.incomplete || live.next().is_some() { None } else { first }
    }

    /// Whether the kernel may remember another than `link`.
    pub fn may_be_opened_without(&self, link: &Arc<Link>) -> bool {
        let now_ms = now_ms();
        let known = lock(&self.known);
        let mut others = known.links.iter().filter(|other| other.is_live() && !Arc::ptr_eq(other, link));
        others.any(|other| other.may_be_remembered(now_ms))
    }

    /// What `link` was renamed to, or else the name that stands for the file.
    pub fn instead_of(&self, link: Option<&Link>) -> Option<Arc<Link>> {
        let renamed = link.and_then(|link| {
            let known = lock(&self.known);
            known.links.iter().find(|other| other.id == link.id && other.is_live()).cloned()
        });
        renamed.or_else(|| self.first())
    }

    /// All that lead to the file, as far as is known.
    pub fn live(&self) -> Vec<Arc<Link>> {
        lock(&self.known).links.iter().filter(|link| link.is_live()).cloned().collect()
    }

    /// Takes all out.
    pub fn take(&mut self) -> Vec<Arc<Link>> {
        std::mem::take(&mut self.known.get_mut().unwrap_or_else(PoisonError::into_inner).links).into_vec()
    }

    /// Whether any leads to the file.
    pub fn any_live(&self) -> bool {
        lock(&self.known).links.iter().any(|link| link.is_live())
    }

    /// Takes note that `name` in `parent` leads to the file, and that the kernel will remember it if it is the only one.
    pub fn add(&self, parent: &Arc<Inode>, name: &OsStr, names: Names) -> Arc<Link> {
        let link = self.add_to(&mut lock(&self.known), parent, name, names);
        if names == Names::One {
            link.tell();
        }
        link
    }

    /// As [`Self::add`] for a directory, which has one name: others are no more.
    pub fn set(&self, parent: &Arc<Inode>, name: &OsStr) -> Arc<Link> {
        let link = self.add(parent, name, Names::One);
        let mut known = lock(&self.known);
        known.links.retain(|other| {
            let is_it = Arc::ptr_eq(other, &link);
            if !is_it {
                other.end();
                other.leave();
            }
            is_it
        });
        link
    }

    /// Takes note that `name` in `parent` does not lead to the file any more.
    pub fn remove(&self, parent: &Inode, name: &OsStr) {
        let mut known = lock(&self.known);
        known.links.iter().filter(|link| link.is(parent, name)).for_each(|link| link.end());
        known.drop_dead();
    }

    /// Takes note that what led to the file by one name does by another.
    pub fn rename(&self, from: (&Inode, &OsStr), to: (&Arc<Inode>, &OsStr)) {
        let mut known = lock(&self.known);
        let at = known.links.iter().position(|link| link.is(from.0, from.1));
        if known.links.iter().any(|link| link.is(to.0, to.1)) {
            // A predecessor has come so far, or the file was moved behind the overlay's back.
            at.map(|at| known.links.remove(at)).iter().for_each(|link| {
                link.end();
                link.leave();
            });
            return known.drop_dead();
        }
        let renamed = match at.map(|at| &known.links[at]) {
            // What the kernel remembers goes along.
            Some(link) => self.new_link(to.0, to.1, (link.id, link.order(), link.told_ms())),
            None => {
                let (id, order) = (known.new_id(), known.place_behind());
                self.new_link(to.0, to.1, (id, order, 0))
            }
        };
        match at {
            Some(at) => {
                let former = std::mem::replace(&mut known.links[at], renamed);
                former.end();
                former.leave();
            }
            None => known.links.push(renamed),
        }
        known.drop_dead();
    }

    fn add_to(&self, known: &mut Known, parent: &Arc<Inode>, name: &OsStr, names: Names) -> Arc<Link> {
        known.incomplete &= names == Names::Several;
        if let Some(first) = known.links.first().filter(|link| link.is(parent, name)) {
            return Arc::clone(first);
        }
        // Where another was known, the file was moved behind the overlay's back, or that answer is late.
        let order = if names == Names::One { known.place_in_front() } else { known.place_behind() };
        let link = match known.links.iter().position(|link| link.is(parent, name)) {
            Some(at) if names == Names::Several => return Arc::clone(&known.links[at]),
            Some(at) => {
                let link = known.links.remove(at);
                link.slot.set(link::ORDER, order.cast_unsigned());
                link
            }
            None => {
                let id = known.new_id();
                self.new_link(parent, name, (id, order, 0))
            }
        };
        known.leave_out(|other| !other.is_live());
        let place = if names == Names::One { 0 } else { known.links.len() };
        known.links.insert(place, Arc::clone(&link));
        known.make_room();
        link
    }

    fn new_link(
        &self,
        parent: &Arc<Inode>,
        name: &OsStr,
        (id, order, told_ms): (u64, i64, u64),
    ) -> Arc<Link> {
        let name = name.as_bytes();
        let can_come_back = name.len() <= NAME_BYTES_MAX;
        let slot = match (self.node, parent.slot()) {
            (Some(node), Some(parent)) if can_come_back => {
                let slot = self.state.links.take_for(journal::asker());
                let name = name.to_vec();
                let is_told = told_ms != 0;
                LinkFacts { node, parent, id, order, is_live: true, is_told, name }.fill(&slot);
                slot
            }
            _ => {
                let slot = self.state.links.private();
                slot.set(link::ORDER, order.cast_unsigned());
                slot
            }
        };
        let (parent, told_ms) = (Arc::clone(parent), AtomicU64::new(told_ms));
        Arc::new(Link {
            id,
            parent,
            name: SmallVec::from_slice(name),
            live: AtomicBool::new(true),
            slot,
            told_ms,
        })
    }
}

impl Known {
    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn place_in_front(&self) -> i64 {
        self.links.first().map_or(0, |first| first.order() - 1)
    }

    fn place_behind(&self) -> i64 {
        self.links.last().map_or(0, |last| last.order() + 1)
    }

    fn leave_out(&mut self, leaves: impl Fn(&Link) -> bool) {
        self.links.retain(|link| {
            let stays = !leaves(link);
            if !stays {
                link.leave();
            }
            stays
        });
    }

    /// Leaves out those that nobody uses, the latest first, but never the oldest. Who uses one has the file open, or is
    /// about to open it.
    fn make_room(&mut self) {
        let mut at = self.links.len();
        while self.links.len() > LINKS_MAX && at > 1 {
            at -= 1;
            if Arc::strong_count(&self.links[at]) == 1 {
                self.links.remove(at).leave();
                self.incomplete = true;
            }
        }
    }

    fn drop_dead(&mut self) {
        if self.links.iter().any(|link| link.is_live()) {
            self.leave_out(|link| !link.is_live());
        }
    }
}

fn now_ms() -> u64 {
    // By way of the C library: valgrind lets no program into the kernel's page by itself. This clock is always there.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// By which of a file's several names each thread has asked for it last.
#[derive(Debug, Default)]
pub struct Lookups(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    by_thread: HashMap<u32, Question>,
    /// All questions, answered or not, with their threads; the oldest first.
    order: VecDeque<(u64, u32)>,
    next: u64,
}

#[derive(Debug)]
struct Question {
    number: u64,
    node: u64,
    link: Arc<Link>,
}

impl Lookups {
    /// `thread` has asked for `node` by `link`. Threads that are not seen, 0, cannot be told apart.
    pub fn note(&self, thread: u32, node: u64, link: &Arc<Link>) {
        if thread == 0 {
            return;
        }
        // Let go of after the lock.
        let mut old = Vec::new();
        let mut asked = lock(&self.0);
        let number = asked.next;
        asked.next += 1;
        asked.order.push_back((number, thread));
        old.extend(asked.by_thread.insert(thread, Question { number, node, link: Arc::clone(link) }));
        if asked.order.len() > LOOKUPS_MAX
            && let Some((number, thread)) = asked.order.pop_front()
            && asked.by_thread.get(&thread).is_some_and(|question| question.number == number)
        {
            old.extend(asked.by_thread.remove(&thread));
        }
        drop(asked);
    }

    /// By which name `thread` has asked for `node`, if that was the last that it asked for.
    pub fn take(&self, thread: u32, node: u64) -> Option<Arc<Link>> {
        let question = lock(&self.0).by_thread.remove(&thread)?;
        (question.node == node).then_some(question.link)
    }
}
