//! One watched directory: its overlay, and what is attached to that for each filesystem mounted below the directory.
//!
//! What somebody has mounted below the directory stays where it is, under the overlay; the overlay has an attachment in its
//! place, an overlay of that filesystem or a clone of its mount. So whatever becomes of the overlay and of the agent,
//! everybody's filesystems are there.

use std::{
    collections::HashSet,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bywash_common::config::{DirectoryConfig, OnAgentExit, Submounts};
use rustix::io::Errno;

use super::{
    flush::Unwritten,
    served::{Answering, Home, Served, Server},
};
use crate::{
    capture::Source,
    event::OverlayId,
    fd_store::{DirectoryPart, Name, Store},
    mount::{
        self, Cover, Place,
        label::{Label, Part},
        survey::{Found, Reason, Survey, Treatment, survey, survey_beneath},
        table::{Device, MountId, Table},
        walk,
    },
};

/// How long the start waits for a filesystem below a watched directory, before that is passed.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// What all watched directories of an agent share.
pub struct Serving {
    /// By what overlays are served.
    pub server: Arc<Server>,
    /// `ring.name`
    pub ring: String,
}

impl Serving {
    fn label(&self, part: Part, on_agent_exit: OnAgentExit) -> Label {
        Label { part, on_agent_exit, ring: self.ring.clone() }
    }
}

/// What stands on the overlay for a filesystem below the directory.
pub enum Attached {
    /// An overlay.
    Overlay(Served),
    /// The filesystem itself, or a clone of its mount.
    Passed(MountId),
}

/// A filesystem below the directory.
pub struct Below {
    /// Where, relative to the directory.
    pub path: PathBuf,
    /// What stands for it.
    pub attached: Attached,
    /// What it stands for, under the overlay, as far as is known.
    pub beneath: Option<MountId>,
}

impl Below {
    /// `attached` stands at `path` on the overlay.
    pub fn new(path: PathBuf, attached: Attached) -> Self {
        Self { path, attached, beneath: None }
    }

    /// The overlay that it is, if it is one.
    pub fn into_overlay(self) -> Option<Served> {
        match self.attached {
            Attached::Overlay(served) => Some(served),
            Attached::Passed(_) => None,
        }
    }
}

/// A watched directory that is overlaid.
pub struct Tree {
    /// Under which it is kept for a successor.
    pub number: u32,
    /// Its path.
    pub path: PathBuf,
    /// The way of its writes into the ring.
    pub source: Arc<Source>,
    /// What becomes of filesystems below it.
    pub submounts: Submounts,
    /// Its own overlay.
    pub top: Served,
    /// The directory under the overlay, in the tree of mounts. None if dead overlays were replaced by this one without a
    /// moment between: nobody can get there then.
    pub real: Option<OwnedFd>,
    /// Filesystems below it, each behind those on which it is mounted.
    pub below: Vec<Below>,
    /// Mounts about which something was tried in vain, and said.
    pub given_up: HashSet<MountId>,
    pub(super) on_agent_exit: OnAgentExit,
    pub(super) cover: Cover,
}

/// Where the overlay of a directory goes.
pub struct Target {
    /// What is seen at the directory's path: the directory, or the dead overlay on top of it.
    pub top: OwnedFd,
    /// What `top` is.
    pub cover: Cover,
    /// The directory, where it can be reached.
    pub real: Option<OwnedFd>,
}

/// Overlays of one directory that answer, and are attached nowhere yet.
pub struct Assembled {
    target: Target,
    number: u32,
    path: PathBuf,
    source: Arc<Source>,
    submounts: Submounts,
    on_agent_exit: OnAgentExit,
    top: Answering,
    below: Vec<(PathBuf, Ready)>,
}

/// What can be attached for a filesystem below the directory.
pub enum Ready {
    /// An overlay.
    Overlay(Answering),
    /// A clone of its mount.
    Clone(OwnedFd),
}

impl Ready {
    /// The root of what can be attached.
    pub fn root(&self) -> &OwnedFd {
        match self {
            Self::Overlay(answering) => &answering.root,
            Self::Clone(root) => root,
        }
    }
}

impl Assembled {
    /// Has overlays of `directory`, and of what is mounted below it, answer.
    ///
    /// # Errors
    /// If the directory cannot be looked at or its overlay cannot be connected.
    pub fn new(
        serving: &Serving,
        directory: &DirectoryConfig,
        target: Target,
        on_agent_exit: OnAgentExit,
        (source, overlays): (Arc<Source>, usize),
    ) -> Result<Self> {
        let (path, submounts) = (directory.path.clone(), directory.submounts);
        let Survey { root, below } = match &target.real {
            Some(real) => survey(real.as_fd(), &path, submounts),
            None => survey_beneath(&path, &serving.ring, submounts),
        }?;
        let overlays = overlays + below.len();
        let label = serving.label(Part::Directory, on_agent_exit);
        let number = serving.server.store().next_directory();
        let home = Home { number, directory: &path, at: Path::new("") };
        let top = serving.server.serve(root, &home, &label, &source, overlays)?;
        let ready = |found| ready(serving, found, (number, &path), on_agent_exit, &source, overlays);
        let below = below.into_iter().map(ready).collect();
        Ok(Self { target, number, path, source, submounts, on_agent_exit, top, below })
    }

    /// Attaches the overlays to the directory.
    ///
    /// # Errors
    /// If the system refuses. All is then as it was.
    pub fn attach(self, serving: &Serving) -> Result<Tree> {
        let Self { target, number, path, source, submounts, on_agent_exit, top, below } = self;
        let Answering { served, root } = top;
        let mut tree = Tree {
            number,
            path,
            source,
            submounts,
            top: served,
            real: target.real,
            below: Vec::new(),
            given_up: HashSet::new(),
            on_agent_exit,
            cover: target.cover,
        };
        if !mount::by_descriptors() {
            // The helper has attached it.
            return Ok(tree);
        }
        // Older kernels cannot attach to what is attached nowhere (Linux 6.15): then what was mounted below is missing
        // for a moment.
        let mut late = Vec::new();
        for (at, ready) in below {
            let covered = late.iter().any(|(other, _): &(PathBuf, Ready)| at.starts_with(other));
            match if covered { Err(Errno::INVAL) } else { attach_below(&root, &at, ready.root()) } {
                Ok(()) => tree.took(at, ready),
                Err(Errno::INVAL) => late.push((at, ready)),
                Err(errno) => tracing::error!("{}", refused(&tree.path, &at, errno)),
            }
        }
        tree.cover(&root, &target.top, &serving.ring)?;
        for (at, ready) in late {
            match attach_below(&root, &at, ready.root()) {
                Ok(()) => tree.took(at, ready),
                Err(errno) => tracing::error!("{}", refused(&tree.path, &at, errno)),
            }
        }
        if let Ok(table) = Table::read() {
            tree.note_beneath(&table);
        }
        if let Some(real) = &tree.real {
            // Said once in the log if it is not kept.
            let _ = serving.server.store().put(&tree.name_of_real(), real.as_fd());
        }
        Ok(tree)
    }
}

fn refused(path: &Path, at: &Path, errno: Errno) -> String {
    format!("{} is hidden while {} is watched: {errno}", path.join(at).display(), path.display())
}

/// Attaches `mount` at `at` below `root`.
fn attach_below(root: &OwnedFd, at: &Path, mount: &OwnedFd) -> rustix::io::Result<()> {
    let to =
        walk::open(root.as_fd(), at).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    mount::attach(mount.as_fd(), to.as_fd(), Place::Top)
}

/// Makes ready what is to stand for `found`, a filesystem below the directory at `path`.
pub fn ready(
    serving: &Serving,
    found: Found,
    (number, path): (u32, &Path),
    on_agent_exit: OnAgentExit,
    source: &Arc<Source>,
    overlays: usize,
) -> (PathBuf, Ready) {
    let at = path.join(&found.path);
    let ready = match found.treatment {
        Treatment::Passed(reason) => {
            tracing::info!("{} is not captured: {reason}", at.display());
            Ready::Clone(found.clone)
        }
        Treatment::Captured => {
            let label = serving.label(Part::Below, on_agent_exit);
            let home = (number, path, found.path.as_path());
            match serve_patiently(serving, &found.clone, home, label, source, overlays) {
                Ok(answering) => Ready::Overlay(answering),
                Err(error) => {
                    tracing::warn!("{} is not captured: {error:#}", at.display());
                    Ready::Clone(found.clone)
                }
            }
        }
    };
    (found.path, ready)
}

/// Has an overlay of a filesystem below a watched directory answer, if that does itself.
fn serve_patiently(
    serving: &Serving,
    root: &OwnedFd,
    (number, directory, at): (u32, &Path, &Path),
    label: Label,
    source: &Arc<Source>,
    overlays: usize,
) -> Result<Answering> {
    let (answer, answered) = sync_channel(1);
    let root = root.try_clone().context("cannot duplicate a descriptor")?;
    let (server, source) = (Arc::clone(&serving.server), Arc::clone(source));
    let (directory, at) = (directory.to_owned(), at.to_owned());
    let serve = move || {
        let home = Home { number, directory: &directory, at: &at };
        // Nobody waits any more if it took too long: the overlay is then gone again.
        let _ = answer.send(server.serve(root, &home, &label, &source, overlays));
    };
    // Not this thread: the filesystem may not answer at all.
    thread::Builder::new().name("below".to_owned()).spawn(serve).context("cannot start a thread")?;
    match answered.recv_timeout(ANSWER_TIME_MAX) {
        Ok(answering) => answering,
        Err(_) => bail!("{}", Reason::Silent),
    }
}

impl Tree {
    /// Attaches the directory's overlay, whose root is `root`, to `top`.
    fn cover(&self, root: &OwnedFd, top: &OwnedFd, ring: &str) -> Result<()> {
        let shown = self.path.display();
        let attach = |place| mount::attach(root.as_fd(), top.as_fd(), place);
        match self.cover {
            Cover::None => attach(Place::Top).with_context(|| format!("cannot mount an overlay on {shown}")),
            Cover::Dead => match attach(Place::BeneathTop) {
                Ok(()) => self.uncover(ring),
                Err(Errno::INVAL) => {
                    tracing::info!(
                        "this kernel lets nobody mount beneath (Linux 6.5): {shown} stays covered twice"
                    );
                    attach(Place::Top).with_context(|| format!("cannot mount an overlay on {shown}"))
                }
                Err(errno) => Err(errno).with_context(|| format!("cannot mount an overlay on {shown}")),
            },
        }
    }

    /// Takes the dead overlays off that lie over this one.
    fn uncover(&self, ring: &str) -> Result<()> {
        loop {
            let table = Table::read().context("cannot read the table of mounts")?;
            match table.top_at(&self.path) {
                Some(top) if top.device != self.top.device && top.is_overlay_of(ring) => {
                    mount::detach(&self.path, top.id)?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Takes note of what was attached at `at`, with what came along with it.
    pub fn took(&mut self, at: PathBuf, ready: Ready) {
        match ready {
            Ready::Overlay(Answering { served, .. }) => {
                self.below.push(Below::new(at, Attached::Overlay(served)));
            }
            Ready::Clone(root) => match walk::mount_of(&root) {
                Ok(id) => self.below.push(Below::new(at, Attached::Passed(id))),
                Err(error) => tracing::warn!("{}: {error}", self.path.join(at).display()),
            },
        }
    }

    fn name_of_real(&self) -> Name {
        Name::Directory(self.number, DirectoryPart::Real)
    }

    /// The directory is not to be covered again under this number: nobody is to find what is under its overlay.
    pub(super) fn forget_real(&self, store: &Store) {
        store.remove(&self.name_of_real());
    }

    /// All overlays, with where they are: the directory's, and those below.
    pub fn placed(&self) -> impl Iterator<Item = (PathBuf, &Served)> {
        let below = self.below.iter().filter_map(|below| match &below.attached {
            Attached::Overlay(served) => Some((self.path.join(&below.path), served)),
            Attached::Passed(_) => None,
        });
        std::iter::once((self.path.clone(), &self.top)).chain(below)
    }

    /// All overlays.
    pub fn overlays(&self) -> impl Iterator<Item = &Served> {
        self.placed().map(|(_, served)| served)
    }

    /// Whether it has taken the place of overlays whose agent had died.
    pub fn replaces_dead(&self) -> bool {
        self.cover == Cover::Dead
    }

    /// Whether `id` is one of its overlays.
    pub fn has(&self, id: OverlayId) -> bool {
        self.overlays().any(|served| served.id == id)
    }

    /// Whether the directory's overlay is in the tree of mounts.
    pub fn is_mounted(&self, table: &Table) -> bool {
        table.iter().any(|mounted| mounted.device == self.top.device && mounted.point == self.path)
    }

    /// The overlays of which the kernel may hold pages of mappings, and where they are.
    pub fn mapped(&self) -> impl Iterator<Item = Unwritten> {
        self.placed().filter_map(|(path, served)| {
            let (id, device) = (served.id, served.device.clone());
            served.mapped.is_any().then_some(Unwritten { id, path, device })
        })
    }

    /// Whether a mount on `device` or with the number `id` is one that this tree has attached.
    pub fn owns(&self, id: MountId, device: &Device) -> bool {
        self.overlays().any(|served| served.device == *device)
            || self
                .below
                .iter()
                .any(|below| matches!(below.attached, Attached::Passed(passed) if passed == id))
    }

    /// Takes all overlays out of the tree of mounts. What is open in them is served on. Gives them.
    pub fn unmount(mut self) -> Vec<Served> {
        let shown = self.path.display().to_string();
        for below in std::mem::take(&mut self.below).into_iter().rev() {
            let served = self.detach_below(below);
            self.below.extend(served.map(|served| Below::new(PathBuf::new(), Attached::Overlay(served))));
        }
        match self.detach_top() {
            Ok(true) => tracing::info!("unmounted {shown}; what is open there is served until it is closed"),
            Ok(false) => tracing::info!("{shown} was unmounted already"),
            Err(error) => tracing::error!("{error:#}"),
        }
        self.into_served()
    }

    /// Whether it was there.
    fn detach_top(&self) -> Result<bool> {
        let table = Table::read().context("cannot read the table of mounts")?;
        if !self.is_mounted(&table) {
            return Ok(false);
        }
        let Some(top) = table.top_at(&self.path).filter(|top| top.device == self.top.device) else {
            bail!(
                "{} is covered by what somebody else has mounted there: the overlay under it stays until that is gone, \
                 and then until `fs-agent cleanup`",
                self.path.display()
            );
        };
        mount::detach(&self.path, top.id).map(|()| true)
    }

    /// Takes one attachment off. Gives the overlay that it was.
    pub fn detach_below(&self, below: Below) -> Option<Served> {
        let path = self.path.join(&below.path);
        let detached = || {
            let table = Table::read().context("cannot read the table of mounts")?;
            let is_it = |id, device: &Device| match &below.attached {
                Attached::Overlay(served) => served.device == *device,
                Attached::Passed(passed) => *passed == id,
            };
            let Some(top) = table.top_at(&path).filter(|top| is_it(top.id, &top.device)) else {
                return Ok(());
            };
            mount::detach(&path, top.id)
        };
        if let Err(error) = detached() {
            tracing::warn!("{error:#}");
        }
        below.into_overlay()
    }

    /// All overlays, none of which is in the tree of mounts any more.
    pub fn into_served(self) -> Vec<Served> {
        let below = self.below.into_iter().filter_map(Below::into_overlay);
        std::iter::once(self.top).chain(below).collect()
    }
}
