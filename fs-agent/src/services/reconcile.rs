//! What others mount and unmount below a watched directory while it is overlaid.
//!
//! Somebody who mounts a filesystem below the directory mounts it on the overlay, where it would go with the overlay. So
//! it is mounted a second time where it belongs, on the directory under the overlay, and captured like those that were there
//! before. Who unmounts what stands on the overlay for a filesystem means the filesystem: it is unmounted under the overlay
//! as well.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::io::Errno;

use super::{
    served::Served,
    tree::{Attached, Below, Ready, Serving, Tree, ready},
};
use crate::mount::{
    self, Place,
    survey::{self, Depth, Found, Treatment, below_path, treatment_of},
    table::{Device, MountId, Mounted, Table},
    walk,
};

/// How often the table is looked at again because something was done. More is done at the next change.
const PASSES_MAX: usize = 4;

impl Tree {
    /// Follows what others have mounted and unmounted. Gives the overlays that are not in the tree any more.
    pub fn reconcile(&mut self, serving: &Serving, overlays: usize) -> Vec<Served> {
        let mut gone = Vec::new();
        if !mount::by_descriptors() {
            return gone;
        }
        for _ in 0..PASSES_MAX {
            let Ok(table) = Table::read() else { return gone };
            if !self.is_mounted(&table) {
                return gone;
            }
            // The kernel gives their numbers to others.
            self.given_up.retain(|id| table.get(*id).is_some());
            if self.take_off_dead(&table) {
                continue;
            }
            self.follow_renames(&table);
            self.note_beneath(&table);
            let vanished = self.follow_unmounts(&table);
            let adopted = self.adopt_new(&table, serving, overlays);
            let attached = self.attach_missing(&table, serving, overlays);
            if vanished.is_empty() && !adopted && !attached {
                return gone;
            }
            gone.extend(vanished);
        }
        gone
    }

    /// Takes overlays off whose connection somebody has aborted: others take their place. Gives whether there were any.
    fn take_off_dead(&mut self, table: &Table) -> bool {
        let below = std::mem::take(&mut self.below);
        let is_dead = |below: &Below| {
            matches!(&below.attached, Attached::Overlay(served) if served.has_ended())
                && self.is_attached_there(table, below)
        };
        let (dead, here): (Vec<Below>, Vec<Below>) = below.into_iter().partition(is_dead);
        self.below = here;
        let any = !dead.is_empty();
        for below in dead {
            tracing::error!("the connection to {} was aborted", self.path.join(&below.path).display());
            self.detach_below(below);
        }
        any
    }

    /// A directory above a mount point may have another name by now.
    fn follow_renames(&mut self, table: &Table) {
        let mut below = std::mem::take(&mut self.below);
        for one in below.iter_mut().filter(|below| !self.is_attached_there(table, below)) {
            let now = match &one.attached {
                Attached::Overlay(served) => {
                    table.iter().find(|m| m.device == served.device && m.point.starts_with(&self.path))
                }
                Attached::Passed(id) => table.get(*id),
            };
            if let Some(at) = now.and_then(|mounted| below_path(mounted, &self.path)) {
                one.path = at.to_owned();
            }
        }
        self.below = below;
    }

    /// What stood on the overlay for a filesystem and does not any more, others have unmounted.
    fn follow_unmounts(&mut self, table: &Table) -> Vec<Served> {
        let mut gone = Vec::new();
        let (here, vanished): (Vec<Below>, Vec<Below>) = std::mem::take(&mut self.below)
            .into_iter()
            .partition(|below| self.is_attached_there(table, below));
        self.below = here;
        // What is mounted on another one goes first.
        for below in vanished.into_iter().rev() {
            let shown = self.path.join(&below.path).display().to_string();
            match self.unmount_beneath(table, &below) {
                Ok(true) => tracing::info!("{shown} was unmounted by someone else: not listening there"),
                Ok(false) => {}
                Err(error) => tracing::warn!(
                    "{shown} was unmounted by someone else, and is still mounted under the overlay: {error:#}"
                ),
            }
            if let Attached::Overlay(served) = below.attached {
                gone.push(served);
            }
        }
        gone
    }

    fn is_attached_there(&self, table: &Table, below: &Below) -> bool {
        let at = self.path.join(&below.path);
        match &below.attached {
            Attached::Overlay(served) => {
                table.iter().any(|mounted| mounted.device == served.device && mounted.point == at)
            }
            Attached::Passed(id) => table.get(*id).is_some_and(|mounted| mounted.point == at),
        }
    }

    /// The mounts that this tree has attached.
    fn attached(&self, table: &Table) -> HashSet<MountId> {
        let overlays: HashMap<&Device, PathBuf> =
            self.placed().map(|(path, served)| (&served.device, path)).collect();
        let is_overlay =
            |mounted: &&Mounted| overlays.get(&mounted.device).is_some_and(|at| *at == mounted.point);
        let passed = self.below.iter().filter_map(|below| match &below.attached {
            Attached::Passed(id) => Some(*id),
            Attached::Overlay(_) => None,
        });
        table.iter().filter(is_overlay).map(|mounted| mounted.id).chain(passed).collect()
    }

    /// Unmounts under the overlay what `below` stood for. Gives whether there was anything.
    fn unmount_beneath(&self, table: &Table, below: &Below) -> Result<bool> {
        let Some(real) = &self.real else { return Ok(false) };
        let beneath = self.beneath(table, walk::mount_of(real)?);
        let Some(mounted) = beneath.iter().find(|mounted| self.stands_for(below, mounted)) else {
            return Ok(false);
        };
        let at = below_path(mounted, &self.path).context("it is elsewhere")?;
        let root = walk::open(real.as_fd(), at)?;
        if walk::mount_of(&root)? != mounted.id {
            return Ok(false);
        }
        mount::detach_fd(root.as_fd()).context("cannot unmount it")?;
        Ok(true)
    }

    /// Whether `below` stands for `mounted`, which is under the overlay.
    fn stands_for(&self, below: &Below, mounted: &Mounted) -> bool {
        below.beneath.map_or_else(|| self.path.join(&below.path) == mounted.point, |id| id == mounted.id)
    }

    /// Takes note of what each attachment stands for: by that it is known if a directory above it is renamed.
    pub fn note_beneath(&mut self, table: &Table) {
        let Some(Ok(on)) = self.real.as_ref().map(walk::mount_of) else { return };
        let beneath = self.beneath(table, on);
        let beneath: HashMap<&Path, MountId> =
            beneath.iter().map(|mounted| (mounted.point.as_path(), mounted.id)).collect();
        for below in self.below.iter_mut().filter(|below| below.beneath.is_none()) {
            below.beneath = beneath.get(self.path.join(&below.path).as_path()).copied();
        }
    }

    /// What is mounted on the directory under the overlay, which is on the mount `on`, and on what is mounted there.
    pub(super) fn beneath<'a>(&self, table: &'a Table, on: MountId) -> Vec<&'a Mounted> {
        let mut found: Vec<&Mounted> = Vec::new();
        let mut parents = vec![on];
        while let Some(parent) = parents.pop() {
            for mounted in table.on(parent) {
                let is_below = below_path(mounted, &self.path).is_some();
                if is_below && !self.owns(mounted.id, &mounted.device) {
                    parents.push(mounted.id);
                    found.push(mounted);
                }
            }
        }
        found
    }

    /// What others have mounted on the overlays. Gives whether there was anything.
    fn adopt_new(&mut self, table: &Table, serving: &Serving, overlays: usize) -> bool {
        let attached = self.attached(table);
        // The way to what is mounted on a user's own FUSE filesystem leads through that user's program.
        let is_ours = |on: &Mounted| attached.contains(&on.id) && on.fuse_user().is_none_or(|user| user == 0);
        let is_new = |mounted: &&Mounted| {
            table.get(mounted.parent).is_some_and(is_ours)
                && mounted.point.starts_with(&self.path)
                && !attached.contains(&mounted.id)
                && !self.given_up.contains(&mounted.id)
        };
        let new: Vec<Mounted> = table.iter().filter(is_new).cloned().collect();
        for mounted in &new {
            let shown = mounted.point.display();
            if mounted.point == self.path {
                self.given_up.insert(mounted.id);
                tracing::warn!("something was mounted over {shown}: what is written there is not captured");
            } else if let Err(error) = self.adopt(table, mounted, serving, overlays) {
                self.given_up.insert(mounted.id);
                tracing::warn!("{shown} was mounted by someone else, and is not captured: {error:#}");
            }
        }
        !new.is_empty()
    }

    fn adopt(&mut self, table: &Table, mounted: &Mounted, serving: &Serving, overlays: usize) -> Result<()> {
        let at = mounted.point.strip_prefix(&self.path).context("it is elsewhere")?.to_owned();
        let Some(root) = self.open_top(&mounted.point, mounted.id)? else {
            // Something was mounted over it since, or it is gone again: the next change tells.
            return Ok(());
        };
        if let Some(base) = self.real_of(&mounted.device)? {
            // A part of the directory, mounted a second time: captured already.
            let part = mounted.root.strip_prefix(b"/").unwrap_or(&mounted.root);
            let part = walk::open(base.as_fd(), Path::new(OsStr::from_bytes(part)))
                .context("it cannot be found below")?;
            self.put_beneath(&at, part.as_fd(), Depth::One)?;
            self.below.push(Below::new(at, Attached::Passed(mounted.id)));
            return Ok(());
        }
        if !self.is_beneath(table, mounted)? {
            self.put_beneath(&at, root.as_fd(), Depth::All)?;
        }
        let treatment = treatment_of(mounted, root.as_fd(), self.submounts);
        let clone = match treatment {
            Treatment::Captured => survey::clone(root.as_fd(), Depth::One)?,
            Treatment::Passed(reason) => {
                tracing::info!("{} is not captured: {reason}", mounted.point.display());
                self.below.push(Below::new(at, Attached::Passed(mounted.id)));
                return Ok(());
            }
        };
        let found = Found { path: at, mounted: mounted.clone(), clone, treatment };
        let home = (self.number, self.path.as_path());
        let (at, ready) = ready(serving, found, home, self.on_agent_exit, &self.source, overlays);
        let Ready::Overlay(answering) = ready else {
            self.below.push(Below::new(at, Attached::Passed(mounted.id)));
            return Ok(());
        };
        match mount::attach(answering.root.as_fd(), root.as_fd(), Place::BeneathTop) {
            Ok(()) => {
                tracing::info!("{} was mounted: listening there too", mounted.point.display());
                self.took(at, Ready::Overlay(answering));
                // Its users go on with it; whoever comes now finds the overlay.
                mount::detach_fd(root.as_fd()).context("cannot put an overlay in its place")
            }
            Err(Errno::INVAL) => {
                tracing::info!(
                    "{} is not captured before fs-agent starts again: this kernel lets nobody mount beneath (Linux 6.5)",
                    mounted.point.display()
                );
                self.below.push(Below::new(at, Attached::Passed(mounted.id)));
                Ok(())
            }
            Err(errno) => Err(errno).context("cannot mount an overlay"),
        }
    }

    /// Whether the filesystem that is mounted at the same place on the overlay is there under it: the kernel has done it
    /// where both are of one peer group.
    fn is_beneath(&self, table: &Table, mounted: &Mounted) -> Result<bool> {
        let on = walk::mount_of(self.reachable()?)?;
        let is_there = |other: &&Mounted| {
            other.point == mounted.point && other.device == mounted.device && other.root == mounted.root
        };
        Ok(self.beneath(table, on).iter().any(is_there))
    }

    /// Mounts `root` at `at` on the directory under the overlay as well.
    fn put_beneath(&self, at: &Path, root: BorrowedFd<'_>, depth: Depth) -> Result<()> {
        let clone = survey::clone(root, depth).context("its mount cannot be cloned")?;
        let to = walk::open(self.reachable()?.as_fd(), at).context("its mount point cannot be opened")?;
        mount::attach(clone.as_fd(), to.as_fd(), Place::Top).context("it cannot be mounted under the overlay")
    }

    fn reachable(&self) -> Result<&OwnedFd> {
        self.real.as_ref().context("the directory under the overlay cannot be reached")
    }

    /// What the overlay on `device` overlays, in the tree of mounts; none if it is none of this tree's.
    fn real_of(&self, device: &Device) -> Result<Option<OwnedFd>> {
        let Some((path, _)) = self.placed().find(|(_, served)| served.device == *device) else {
            return Ok(None);
        };
        let at = path.strip_prefix(&self.path).context("it is elsewhere")?;
        Ok(Some(walk::open(self.reachable()?.as_fd(), at)?))
    }

    /// Opens the root of the mount `id` if it is what `path` leads to.
    fn open_top(&self, path: &Path, id: MountId) -> Result<Option<OwnedFd>> {
        let root = walk::open(rustix::fs::CWD, path).context("it cannot be opened")?;
        Ok((walk::mount_of(&root)? == id).then_some(root))
    }

    /// Has something stand on the overlay for each filesystem under it, and for no other. Gives whether anything was done.
    fn attach_missing(&mut self, table: &Table, serving: &Serving, overlays: usize) -> bool {
        let Some(real) = &self.real else { return false };
        let Ok(on) = walk::mount_of(real) else { return false };
        let beneath = self.beneath(table, on);
        let standing: HashSet<&Path> = self.below.iter().map(|below| below.path.as_path()).collect();
        let is_missing = |mounted: &&&Mounted| {
            let missing = below_path(mounted, &self.path)
                .is_some_and(|at| !standing.contains(at) && !self.is_in_passed(at));
            missing && !self.given_up.contains(&mounted.id)
        };
        let missing: Vec<MountId> = beneath.iter().filter(is_missing).map(|mounted| mounted.id).collect();
        if missing.is_empty() {
            return false;
        }
        let found = survey::below(table, real.as_fd(), on, &self.path, self.submounts);
        let tried: Vec<(PathBuf, MountId, Result<()>)> = found
            .into_iter()
            .filter(|found| missing.contains(&found.mounted.id))
            .map(|found| {
                let id = found.mounted.id;
                let home = (self.number, self.path.as_path());
                let (at, ready) = ready(serving, found, home, self.on_agent_exit, &self.source, overlays);
                (at.clone(), id, self.attach_late(at, ready))
            })
            .collect();
        // But for those that are attached now: they may be missing again.
        self.given_up.extend(missing);
        for (at, id, result) in tried {
            match result {
                Ok(()) => {
                    self.given_up.remove(&id);
                    tracing::info!(
                        "{} was mounted: it is there under the overlay too",
                        self.path.join(at).display()
                    );
                }
                Err(error) => tracing::warn!("{} is hidden: {error:#}", self.path.join(at).display()),
            }
        }
        true
    }

    /// Whether something that is passed with all that is mounted on it is at or above `at`.
    fn is_in_passed(&self, at: &Path) -> bool {
        let passed = |below: &&Below| matches!(below.attached, Attached::Passed(_));
        self.below.iter().filter(passed).any(|below| at.starts_with(&below.path))
    }

    fn attach_late(&mut self, at: PathBuf, ready: Ready) -> Result<()> {
        let to =
            walk::open(rustix::fs::CWD, &self.path.join(&at)).context("its mount point cannot be opened")?;
        mount::attach(ready.root().as_fd(), to.as_fd(), Place::Top).context("it cannot be attached")?;
        self.took(at, ready);
        Ok(())
    }
}
