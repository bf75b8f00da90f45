//! FIFOs: each is read by a thread of its own, whose records go into the same ring as the overlays'.
//!
//! A thread each, because a FIFO whose writers may wait can keep its reader waiting, and because the kernel then shares the
//! processors out between FIFOs. It sleeps while nothing comes.
//!
//! What the kernel does with bytes that nobody has read: it keeps them while anybody, writer or reader, has the FIFO open,
//! and throws them away when the last one closes it. While no reader has it open, a new writer waits in open(2), and one
//! that has it open gets SIGPIPE.

mod batch;
mod bench_support;
mod keep;
pub mod leftovers;
mod memory;
mod promise;
mod reader;
mod ring_writer;
mod source;
mod splitter;
mod stream;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use bywash_common::{
    config::{Config, FifoConfig},
    status::{FIFO_SLOTS, Listening, ListeningKind},
};

use crate::{capture::Capture, fd_store::Store, state::journal::RecordId};
pub use bench_support::Lines;
use keep::Left;
use promise::Promises;
use reader::{Control, Reader};
use ring_writer::RingWriter;
use source::{Opened, Unlocked};

pub use source::Unusable;

/// Whether a FIFO of `config` can be read, as far as can be said without changing anything.
///
/// # Errors
/// Why it cannot.
pub fn check(config: &Config, fifo: &FifoConfig) -> Result<(), Unusable> {
    if let Some(directory) = config.directory_around(&fifo.path) {
        let (path, directory) = (fifo.path.clone(), directory.to_owned());
        return Err(Unusable::Watched { path, directory });
    }
    source::check(fifo)
}

/// A FIFO that is read.
struct Read {
    config: FifoConfig,
    control: Arc<Control>,
    slot: Option<usize>,
    thread: JoinHandle<()>,
}

/// All FIFOs.
pub struct Fifos {
    capture: Arc<Capture>,
    /// Of room in the ring, to all readers.
    promises: Promises,
    read: Vec<Read>,
    /// Told to end.
    leaving: Vec<Read>,
    /// Who keeps what is open for the next agent.
    store: Arc<Store>,
    /// What the agent before has left, until everything that is configured is open.
    left: Mutex<Vec<Left>>,
}

/// FIFOs that are open and not read yet. Dropped, they are closed again.
pub struct New(Vec<(FifoConfig, Found)>);

/// A FIFO that is open and not read yet.
enum Found {
    /// Nobody reads it; nor what was at its path before.
    Free(Opened, Vec<Opened>),
    /// A reader that was told to end still does. It is open here too, so that its writers never find it without a reader.
    Left(Unlocked),
}

impl Fifos {
    /// None yet. What comes through them goes to `capture`, and `store` keeps them for the next agent.
    pub fn new(capture: Arc<Capture>, store: Arc<Store>) -> Self {
        let ring = capture.ring();
        let is_committed = |record: RecordId| ring.had_committed(record.ring, record.sequence);
        let (promises, left) = (Promises::default(), Mutex::new(Left::take_all(&store, is_committed)));
        Self { capture, promises, read: Vec::new(), leaving: Vec::new(), store, left }
    }

    /// Opens those of `wanted` that are not read.
    ///
    /// # Errors
    /// Why one cannot be. None of the new ones is then left open.
    pub fn open_new(&self, wanted: &[FifoConfig]) -> Result<New> {
        let is_read = |fifo: &&FifoConfig| self.read.iter().any(|read| read.config.path == fifo.path);
        let mut new = New(Vec::new());
        for fifo in wanted.iter().filter(|fifo| !is_read(fifo)) {
            self.refuse_known(fifo, &new)?;
            let mut removed = self.left_at(fifo);
            let current = removed.iter().position(|left| {
                source::look(&fifo.path).is_ok_and(|found| found == source::Found::Fifo(left.id))
            });
            let unlocked = match current {
                Some(at) => Unlocked::new(removed.remove(at), &fifo.path),
                None => source::open_unlocked(fifo)?,
            };
            let is_left = self.leaving.iter().any(|read| read.control.holds(unlocked.id()));
            let found = if is_left { Found::Left(unlocked) } else { Found::Free(unlocked.lock()?, removed) };
            new.0.push((fifo.clone(), found));
        }
        Ok(new)
    }

    /// What the agent before has left of the FIFOs at the path of `fifo`.
    fn left_at(&self, fifo: &FifoConfig) -> Vec<Opened> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let here: Vec<Left> = left.extract_if(.., |left| left.path == fifo.path).collect();
        here.into_iter().filter_map(|left| Opened::take_up(left, fifo)).collect()
    }

    /// Another path may lead to a FIFO that is read.
    fn refuse_known(&self, fifo: &FifoConfig, new: &New) -> Result<(), Unusable> {
        let Ok(source::Found::Fifo(id)) = source::look(&fifo.path) else { return Ok(()) };
        let mut read = self.read.iter().filter(|read| read.control.holds(id)).map(|read| &read.config.path);
        let mut others = new.0.iter().filter(|(_, found)| found.id() == id).map(|(config, _)| &config.path);
        match read.next().or_else(|| others.next()) {
            Some(other) => Err(Unusable::Twice { path: fifo.path.clone(), other: other.clone() }),
            None => Ok(()),
        }
    }

    /// Begins to read `new`, has those that stay go on by what `wanted` says, and stops reading what is not wanted.
    ///
    /// # Errors
    /// If the system has no thread or descriptor to give; the FIFO is then not read.
    pub fn settle(&mut self, wanted: &[FifoConfig], new: New) -> Result<()> {
        for mut read in std::mem::take(&mut self.read) {
            match wanted.iter().find(|fifo| fifo.path == read.config.path) {
                Some(fifo) => {
                    if *fifo != read.config {
                        read.control.change(fifo.clone());
                        read.config = fifo.clone();
                    }
                    self.read.push(read);
                }
                None => {
                    tracing::info!("not listening on {} any more", read.config.path.display());
                    read.control.stop();
                    self.leaving.push(read);
                }
            }
        }
        let begun = new.0.into_iter().try_for_each(|(config, found)| self.begin(config, found));
        self.leaving.retain(|read| !read.thread.is_finished());
        for left in self.left.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let lost = left.memory.bytes().len().saturating_sub(left.mark.begin);
            tracing::info!(
                "not listening on {} any more; {lost} bytes of a line had been read",
                left.path.display()
            );
        }
        begun
    }

    /// Has the FIFO read, by the reader that was told to end if it can still be told to go on: so no line is torn.
    fn begin(&mut self, config: FifoConfig, found: Found) -> Result<()> {
        let unlocked = match found {
            Found::Free(opened, removed) => return self.start(config, opened, removed),
            Found::Left(unlocked) => unlocked,
        };
        if let Some(at) = self.leaving.iter().position(|read| read.control.holds(unlocked.id())) {
            let mut read = self.leaving.swap_remove(at);
            if read.config.path == config.path && read.control.resume(&config) {
                tracing::info!("listening on {}", config.path.display());
                read.config = config;
                self.read.push(read);
                return Ok(());
            }
            // It ends at once: what it has not read is read here.
            read.control.hand_over();
            join(read);
        }
        self.start(config, unlocked.lock()?, Vec::new())
    }

    fn start(&mut self, config: FifoConfig, opened: Opened, removed: Vec<Opened>) -> Result<()> {
        let slot = self.free_slot();
        if let Some(slot) = slot {
            self.capture.ring().status.clear_fifo(slot);
        }
        let control = Arc::new(Control::new().context("cannot make an eventfd")?);
        let ring_writer = RingWriter::new(Arc::clone(&self.capture), &config, self.promises.clone(), slot);
        let (opened, store) = ((opened, removed), Arc::clone(&self.store));
        let reader = Reader::new(config.clone(), opened, Arc::clone(&control), ring_writer, store)
            .with_context(|| format!("cannot wait for the FIFO {}", config.path.display()))?;
        let thread = thread::Builder::new()
            .name("fifo".to_owned())
            .spawn(move || reader.run())
            .context("cannot start a thread")?;
        tracing::info!("listening on {}", config.path.display());
        self.read.push(Read { config, control, slot, thread });
        Ok(())
    }

    /// Counters that no FIFO uses.
    fn free_slot(&self) -> Option<usize> {
        let used = |slot: &usize| self.read.iter().chain(&self.leaving).any(|read| read.slot == Some(*slot));
        (0..FIFO_SLOTS).find(|slot| !used(slot))
    }

    /// What is read.
    pub fn listening_table(&self) -> impl Iterator<Item = Listening> {
        self.read.iter().map(|read| Listening {
            kind: ListeningKind::Fifo { slot: read.slot },
            path: read.config.path.clone(),
        })
    }

    /// Whether no FIFO is read.
    pub fn is_empty(&self) -> bool {
        self.read.is_empty()
    }

    /// Has all readers read out what the pipes hold, and end.
    pub fn stop(&mut self) {
        for read in self.read.drain(..) {
            read.control.stop();
            self.leaving.push(read);
        }
    }

    /// Leaves all pipes to the next agent, with what was read of them.
    pub fn leave(&mut self) {
        for read in self.read.drain(..).chain(self.leaving.drain(..)) {
            read.control.leave();
            join(read);
        }
    }

    /// Waits until all readers that were told to end have done so: each does within a bounded time.
    pub fn join(&mut self) {
        self.leaving.drain(..).for_each(join);
    }
}

impl Found {
    fn id(&self) -> source::FileId {
        match self {
            Self::Free(opened, _) => opened.id,
            Self::Left(unlocked) => unlocked.id(),
        }
    }
}

/// Waits until a reader that was told to end has done so.
fn join(read: Read) {
    let path: PathBuf = read.config.path;
    match read.thread.join() {
        Ok(()) => tracing::info!("closed {}", path.display()),
        // Its panic has been reported.
        Err(_) => tracing::error!("the reader of {} has failed", path.display()),
    }
}
