//! The directories that are overlaid.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::Sender},
};

use anyhow::{Context, Result};
use bywash_common::config::{DirectoryConfig, OnAgentExit};

use super::{
    flush::{self, Kept},
    served::{Served, Server},
    tree::{Assembled, Serving, Target, Tree},
};
use crate::{
    capture::{Capture, Source},
    event::{Event, OverlayId},
    fd_store::Store,
    mount::{self, Cover, Dead, table::Table, walk},
    overlay::Identity,
};

/// What has become of an overlay that is not served any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was out of the tree already.
    Expected,
    /// Somebody else has unmounted a directory's overlay: that directory is not listened to any more.
    Unmounted,
    /// The connection was aborted, and the overlay is still there and fails: it is to be mounted again.
    Aborted,
}

/// An overlay out of the tree, with files open in it.
struct Leaving {
    path: PathBuf,
    source: Arc<Source>,
    served: Served,
    /// Where somebody may have mapped a file.
    kept: Option<Kept>,
}

/// All overlays.
pub struct Overlays {
    pub(super) capture: Arc<Capture>,
    pub(super) serving: Arc<Serving>,
    /// In the tree.
    pub(super) mounted: Vec<Tree>,
    /// Out of the tree, with files open in them.
    leaving: Vec<Leaving>,
    /// Directories under overlays whose connection was aborted, and that are to be mounted again.
    aborted: HashMap<PathBuf, OwnedFd>,
}

/// Overlays that are mounted and not yet taken in. Dropped, they are unmounted again.
pub struct New {
    trees: Vec<Tree>,
    store: Arc<Store>,
}

impl Drop for New {
    fn drop(&mut self) {
        for tree in std::mem::take(&mut self.trees) {
            // One that has taken the place of a dead one stays, to fail as that did: nothing is to be written uncaptured.
            if tree.replaces_dead() {
                continue;
            }
            tree.forget_real(&self.store);
            tree.unmount();
        }
    }
}

impl Overlays {
    /// None yet. They act as `identity` lets them, and are kept in `store`. Their writes go to `capture`, news of their end to
    /// `events`; mounts name `ring`.
    pub fn new(
        capture: Arc<Capture>,
        ring: &str,
        events: Sender<Event>,
        identity: Identity,
        store: Arc<Store>,
    ) -> Self {
        let server = Arc::new(Server::new(events, identity, store));
        let serving = Arc::new(Serving { server, ring: ring.to_owned() });
        Self { capture, serving, mounted: Vec::new(), leaving: Vec::new(), aborted: HashMap::new() }
    }

    /// Mounts those of `wanted` that are not mounted; they answer before anybody sees them.
    ///
    /// # Errors
    /// Why one could not be. None is then left mounted.
    pub fn start_new(&mut self, wanted: &[DirectoryConfig], on_agent_exit: OnAgentExit) -> Result<New> {
        let mut new = New { trees: Vec::new(), store: Arc::clone(self.serving.server.store()) };
        self.notice_unmounted();
        let missing: Vec<_> = wanted.iter().filter(|d| !self.paths().any(|path| path == d.path)).collect();
        let mut opened = Vec::with_capacity(missing.len());
        for directory in &missing {
            opened.push(self.open(directory, on_agent_exit)?);
        }
        let mut prepared = Vec::with_capacity(missing.len());
        for (directory, target) in missing.into_iter().zip(opened) {
            let source = Arc::new(Source::new(Arc::clone(&self.capture), directory));
            let source = (source, wanted.len() + self.below());
            prepared.push(Assembled::new(&self.serving, directory, target, on_agent_exit, source)?);
        }
        for one in prepared {
            new.trees.push(one.attach(&self.serving)?);
        }
        Ok(new)
    }

    /// Opens `directory`, after what an agent that has died has left there was seen to.
    fn open(&mut self, directory: &DirectoryConfig, on_agent_exit: OnAgentExit) -> Result<Target> {
        let path = &directory.path;
        let known = self.aborted.remove(path);
        let dead =
            if on_agent_exit == OnAgentExit::Keep || known.is_some() { Dead::Replace } else { Dead::TakeOff };
        let cover = mount::recover(path, &self.serving.ring, dead)?;
        let (top, real) = match cover {
            Cover::None => {
                let top = mount::prepare_directory(directory)?;
                let real = top.try_clone().context("cannot duplicate a descriptor")?;
                (top, Some(real))
            }
            Cover::Dead => {
                (walk::open_dir(path).with_context(|| format!("cannot open {}", path.display()))?, known)
            }
        };
        Ok(Target { top, cover, real })
    }

    /// How many overlays there are below directories.
    fn below(&self) -> usize {
        self.mounted.iter().map(|tree| tree.overlays().count() - 1).sum()
    }

    /// What somebody else has unmounted while files were open in it is served on, and can be mounted again.
    fn notice_unmounted(&mut self) {
        // Without the table nobody can tell: as if all were there.
        let Ok(table) = Table::read() else { return };
        for tree in std::mem::take(&mut self.mounted) {
            if tree.is_mounted(&table) {
                self.mounted.push(tree);
            } else {
                tracing::warn!("{} was unmounted by someone else", tree.path.display());
                self.leave(tree, &mut Vec::new(), Tree::into_served);
            }
        }
    }

    /// Takes note that `tree` is not in the tree of mounts any more.
    fn leave(&mut self, tree: Tree, kept: &mut Vec<Kept>, take_out: impl FnOnce(Tree) -> Vec<Served>) {
        tree.forget_real(self.serving.server.store());
        let (path, source) = (tree.path.clone(), Arc::clone(&tree.source));
        self.leave_all(&path, &source, kept, take_out(tree));
    }

    pub(super) fn leave_all(
        &mut self,
        path: &Path,
        source: &Arc<Source>,
        kept: &mut Vec<Kept>,
        overlays: Vec<Served>,
    ) {
        for served in overlays {
            let at = kept.iter().position(|kept| kept.id() == served.id);
            let kept = at.map(|at| kept.swap_remove(at));
            self.leaving.push(Leaving { path: path.to_owned(), source: Arc::clone(source), served, kept });
        }
    }

    /// Lets go of overlays out of the tree that nobody uses any more.
    pub fn let_go_of_unused(&mut self) {
        for leaving in &mut self.leaving {
            leaving.kept.take_if(|_| !leaving.served.mapped.is_any());
        }
    }

    /// Takes `new` in, has the others go by what is `wanted`, and takes out of the tree what is not any more.
    pub fn settle(&mut self, wanted: &[DirectoryConfig], mut new: New) {
        let mut unwanted = Vec::new();
        for mut tree in std::mem::take(&mut self.mounted) {
            match wanted.iter().find(|directory| directory.path == tree.path) {
                Some(directory) => {
                    tree.source.change(directory);
                    if tree.submounts != directory.submounts {
                        let shown = tree.path.display();
                        tracing::warn!(
                            "directory.submounts of {shown} has changed: filesystems that are mounted there already stay as they are"
                        );
                        tree.submounts = directory.submounts;
                    }
                    self.mounted.push(tree);
                }
                None => unwanted.push(tree),
            }
        }
        self.unmount(unwanted);
        for tree in std::mem::take(&mut new.trees) {
            tracing::info!("listening on {}", tree.path.display());
            self.mounted.push(tree);
        }
    }

    /// Takes `trees` out of the tree of mounts, when what the kernel holds of mappings is written down.
    fn unmount(&mut self, mut trees: Vec<Tree>) {
        for tree in &mut trees {
            let gone = tree.reconcile(&self.serving, 1);
            let (path, source) = (tree.path.clone(), Arc::clone(&tree.source));
            self.leave_all(&path, &source, &mut Vec::new(), gone);
        }
        let mut kept = flush::begin(trees.iter().flat_map(Tree::mapped).collect());
        for tree in trees {
            self.leave(tree, &mut kept, Tree::unmount);
        }
    }

    /// Somebody has mounted or unmounted something, somewhere.
    pub fn mounts_changed(&mut self) {
        let overlays = self.mounted.len() + self.below() + 1;
        for mut tree in std::mem::take(&mut self.mounted) {
            let gone = tree.reconcile(&self.serving, overlays);
            let (path, source) = (tree.path.clone(), Arc::clone(&tree.source));
            self.mounted.push(tree);
            self.leave_all(&path, &source, &mut Vec::new(), gone);
        }
    }

    /// The directories that have an overlay.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.mounted.iter().map(|tree| tree.path.as_path())
    }

    /// Whether no directory has an overlay.
    pub fn is_empty(&self) -> bool {
        self.mounted.is_empty()
    }

    /// An overlay is not served any more.
    pub fn ended(&mut self, id: OverlayId, result: io::Result<()>) -> Ended {
        self.serving.server.let_go(id);
        self.leaving.retain(|leaving| leaving.served.id != id);
        let Some(at) = self.mounted.iter().position(|tree| tree.has(id)) else { return Ended::Expected };
        if self.mounted[at].top.id != id {
            // An overlay below a directory: unmounted by somebody, or to be mounted again.
            self.mounts_changed();
            return Ended::Expected;
        }
        let mut tree = self.mounted.remove(at);
        let shown = tree.path.display().to_string();
        let still_there = Table::read().is_ok_and(|table| tree.is_mounted(&table));
        if let Some(real) = tree.real.take_if(|_| still_there) {
            self.aborted.insert(tree.path.clone(), real);
        }
        self.leave(tree, &mut Vec::new(), Tree::into_served);
        self.leaving.retain(|leaving| leaving.served.id != id);
        match result {
            _ if still_there => {
                tracing::error!("the connection to {shown} was aborted: mounting it again");
                Ended::Aborted
            }
            Ok(()) => {
                tracing::warn!("{shown} was unmounted by someone else: not listening there");
                Ended::Unmounted
            }
            Err(error) => {
                tracing::error!("serving {shown} has failed: {error}");
                Ended::Unmounted
            }
        }
    }

    /// Announces what quotas have withheld.
    pub fn tidy(&self) {
        let leaving = self.leaving.iter().map(|leaving| &leaving.served);
        self.mounted.iter().flat_map(Tree::overlays).chain(leaving).for_each(Served::tidy);
        self.mounted.iter().for_each(|tree| tree.source.tidy());
        self.leaving.iter().for_each(|leaving| leaving.source.tidy());
    }

    /// Takes all of them out of the tree, unless they are to be kept: those fail once this process is gone.
    pub fn stop(&mut self, on_agent_exit: OnAgentExit) {
        let mounted = std::mem::take(&mut self.mounted);
        if on_agent_exit == OnAgentExit::Keep {
            flush::finish(flush::begin(mounted.iter().flat_map(Tree::mapped).collect()));
            for tree in mounted {
                tree.source.finish();
                tracing::info!("{} stays overlaid, and fails until fs-agent runs again", tree.path.display());
            }
            return;
        }
        self.unmount(mounted);
    }

    /// Leaves those that are kept to the next agent, as they are: what is asked of them from here on may be answered by either.
    /// The others are stopped.
    pub fn leave_to_successor(&mut self, on_agent_exit: OnAgentExit) {
        let server = Arc::clone(&self.serving.server);
        flush::hasten(self.mounted.iter().flat_map(Tree::mapped).collect());
        let is_left = |tree: &Tree| tree.overlays().all(|served| server.is_kept(served.id));
        let (left, others): (Vec<Tree>, Vec<Tree>) =
            std::mem::take(&mut self.mounted).into_iter().partition(is_left);
        left.iter().for_each(|tree| tree.source.finish());
        self.mounted = others;
        self.stop(on_agent_exit);
        for leaving in self.leaving.extract_if(.., |leaving| server.is_kept(leaving.served.id)) {
            leaving.source.finish();
        }
    }

    /// Whether nothing is open in those that are out of the tree.
    pub fn is_closed(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Says what is cut off if the process ends now, has it written down, and says what quotas have withheld.
    pub fn abandon(&mut self) {
        self.let_go_of_unused();
        flush::finish(self.leaving.iter_mut().filter_map(|leaving| leaving.kept.take()).collect());
        for Leaving { path, source, .. } in &self.leaving {
            let shown = path.display();
            source.finish();
            tracing::warn!("files are still open in {shown}: they are cut off now");
        }
    }
}
