//! Goes on with the overlays that the agent before has left: whoever uses them has noticed nothing but a pause.

use std::{
    collections::{BTreeMap, HashSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use bywash_common::config::{DirectoryConfig, OnAgentExit};

use super::{
    left::{Facts, Left, Resumable},
    overlays::Overlays,
    served::Served,
    tree::{Attached, Below, Tree},
};
use crate::{
    capture::Source,
    fd_store::{DirectoryPart, Name},
    mount::{
        self, Cover,
        label::Part,
        table::{Device, Mounted, Table},
    },
    overlay::Restored,
};

/// An overlay that is served again.
struct Back {
    at: PathBuf,
    part: Part,
    served: Served,
    on_agent_exit: OnAgentExit,
    /// How many files programs have open under it.
    files: usize,
}

impl Overlays {
    /// Serves what the agent before has left, before anything else is done: callers wait. What becomes of it then is decided by
    /// the configuration, as at a reload. Gives how many files programs have open there.
    pub fn resume(&mut self, wanted: &[DirectoryConfig]) -> usize {
        let Left { overlays, mut directories } = Left::take(self.serving.server.store());
        let mut files = 0;
        let count = overlays.len();
        let mut trees: BTreeMap<u32, Vec<Resumable>> = BTreeMap::new();
        for left in overlays {
            let number = left.number;
            match Resumable::of(left) {
                Ok(resumable) => trees.entry(resumable.facts.directory).or_default().push(resumable),
                Err(error) => {
                    tracing::error!("what an overlay was is lost, and with it what is open there: {error:#}");
                    self.serving.server.store().remove_overlay(number);
                }
            }
        }
        for (number, mut overlays) in trees {
            // A directory's own before those on it: the way to them leads through it.
            overlays.sort_by_key(|overlay| overlay.facts.at.components().count());
            let real = directories.remove(&number);
            let Some(path) = overlays.first().map(|overlay| overlay.facts.path.clone()) else { continue };
            let directory = wanted.iter().find(|directory| directory.path == path).cloned();
            let directory = directory.unwrap_or_else(|| DirectoryConfig::at(path));
            let source = Arc::new(Source::new(Arc::clone(&self.capture), &directory));
            let resume = |overlay| self.resume_one(overlay, &source, count);
            let back: Vec<Back> = overlays.into_iter().filter_map(resume).collect();
            files += back.iter().map(|back| back.files).sum::<usize>();
            self.take_in(number, &directory, source, real, back);
        }
        for number in directories.into_keys() {
            self.serving.server.store().remove(&Name::Directory(number, DirectoryPart::Real));
        }
        files
    }

    fn resume_one(&self, overlay: Resumable, source: &Arc<Source>, count: usize) -> Option<Back> {
        let facts = overlay.facts.clone();
        let number = overlay.number;
        let shown = facts.place().display().to_string();
        let server = &self.serving.server;
        match server.resume(overlay, source, count) {
            Ok(Some((served, Restored { files, .. }))) => {
                tracing::info!("going on with {shown}: {files} files are open there");
                let Facts { at, part, on_agent_exit, .. } = facts;
                Some(Back { at, part, served, on_agent_exit, files })
            }
            Ok(None) => {
                server.store().remove_overlay(number);
                None
            }
            Err(error) => {
                tracing::error!("cannot go on with {shown}, what is open there is cut off: {error:#}");
                server.store().remove_overlay(number);
                take_off(&facts.device);
                None
            }
        }
    }

    /// Takes in what is back of one directory.
    fn take_in(
        &mut self,
        number: u32,
        directory: &DirectoryConfig,
        source: Arc<Source>,
        real: Option<OwnedFd>,
        back: Vec<Back>,
    ) {
        // Without the table nobody can tell: as if all were there.
        let table =
            Table::read().inspect_err(|error| tracing::warn!("cannot read the table of mounts: {error}"));
        let known = table.is_ok();
        let table = table.unwrap_or_default();
        let (mut top, mut below, mut others) = (None, Vec::new(), Vec::new());
        for Back { at, part, served, on_agent_exit, .. } in back {
            let is_there = |is_it: &dyn Fn(&Mounted) -> bool| {
                !known || table.iter().any(|mounted| mounted.device == served.device && is_it(mounted))
            };
            let is_mounted = |point: &Path| is_there(&|mounted| mounted.point == point);
            match part {
                Part::Directory if top.is_none() && is_mounted(&directory.path) => {
                    top = Some((served, on_agent_exit));
                }
                Part::Below if is_there(&|_| true) => {
                    below.push(Below::new(at, Attached::Overlay(served)));
                }
                Part::Directory | Part::Below => others.push(served),
            }
        }
        if let Some((top, on_agent_exit)) = top {
            let mut tree = Tree {
                number,
                path: directory.path.clone(),
                source: Arc::clone(&source),
                submounts: directory.submounts,
                top,
                real,
                below,
                given_up: HashSet::new(),
                on_agent_exit,
                cover: Cover::None,
            };
            tree.note_beneath(&table);
            tree.take_up_passed(&table);
            self.mounted.push(tree);
        } else {
            self.serving.server.store().remove(&Name::Directory(number, DirectoryPart::Real));
            others.extend(below.into_iter().filter_map(Below::into_overlay));
        }
        self.leave_all(&directory.path, &source, &mut Vec::new(), others);
    }
}

/// Takes off what nobody serves any more.
fn take_off(device: &Device) {
    let table = Table::read().unwrap_or_default();
    for mounted in table.iter().filter(|mounted| mounted.device == *device) {
        if let Err(error) = mount::detach(&mounted.point, mounted.id) {
            tracing::warn!("{error:#}");
        }
    }
}

impl Tree {
    /// Takes note of what stands on the overlay for filesystems that are passed: the same filesystem is mounted at the same place
    /// under it.
    fn take_up_passed(&mut self, table: &Table) {
        let Some(Ok(on)) = self.real.as_ref().map(mount::walk::mount_of) else { return };
        let mut passed = Vec::new();
        for beneath in self.beneath(table, on) {
            let Some(at) = mount::survey::below_path(beneath, &self.path) else { continue };
            if self.below.iter().any(|below| below.path == at) {
                continue;
            }
            let stands = |mounted: &&Mounted| {
                mounted.point == beneath.point && mounted.device == beneath.device && mounted.id != beneath.id
            };
            if let Some(mounted) = table.iter().find(stands) {
                let attached = Attached::Passed(mounted.id);
                passed.push(Below { path: at.to_owned(), attached, beneath: Some(beneath.id) });
            }
        }
        self.below.extend(passed);
        self.below.sort_by_key(|below| below.path.components().count());
    }
}
