//! Taking overlays away: one's own, and those that an agent has left that has died. Nothing of anybody else's.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use bywash_common::{config::OnAgentExit, ring};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use rustix::fs::CWD;

use super::{
    label::Part,
    probe::{ANSWER_TIME_MAX, Answer, Probe},
    table::{Device, MountId, Mounted, Table},
    walk,
};

/// The most overlays that are taken off one directory.
const STACK_MAX: usize = 64;

/// What covers a directory before an overlay is mounted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// No overlay.
    None,
    /// Overlays of an agent of the same ring whose connection has ended. They stay until another one is in their place, so
    /// that nothing is written uncaptured.
    Dead,
}

/// What becomes of dead overlays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// They are taken off.
    TakeOff,
    /// They stay until another one is in their place.
    Replace,
}

/// Sees to what an agent that has died has left on `path`. The ring `ours` must be held.
///
/// # Errors
/// If a living agent's overlay is there, or a dead one cannot be taken off.
pub fn recover(path: &Path, ours: &str, dead: Dead) -> Result<Cover> {
    for _ in 0..STACK_MAX {
        let Some((top, ring)) = top_overlay(path)? else { return Ok(Cover::None) };
        refuse_living(path, &top, &ring, ours)?;
        if dead == Dead::Replace && ring == ours {
            return Ok(Cover::Dead);
        }
        tracing::info!("{} is still covered by an agent that has died: taking that off", path.display());
        detach(path, top.id)?;
    }
    bail!("{} is covered by more than {STACK_MAX} dead overlays: unmount them (umount -l)", path.display())
}

fn top_overlay(path: &Path) -> Result<Option<(Mounted, String)>> {
    let table = Table::read().context("cannot read the table of mounts")?;
    Ok(table.top_at(path).and_then(|top| Some((top.clone(), top.label()?.ring))))
}

/// Takes off whatever an earlier agent of the ring `ours` has left where nothing is configured any more. The ring must be
/// held. What cannot be taken off is said.
pub fn recover_forgotten(ours: &str, configured: impl Fn(&Path) -> bool) {
    let table = Table::read().unwrap_or_default();
    for left in table.iter().filter(|left| is_forgotten(&table, left, ours) && !configured(&left.point)) {
        let shown = left.point.display();
        if !matches!(probe(&left.point, left.id), Ok(Answer::Dead)) {
            continue;
        }
        tracing::info!("{shown} is still covered by an agent that has died: taking that off");
        if let Err(error) = detach(&left.point, left.id) {
            tracing::warn!("{error:#}");
        }
    }
}

/// Whether `left` is the overlay of a directory, and the one that a path leads to.
fn is_forgotten(table: &Table, left: &Mounted, ours: &str) -> bool {
    let label = left.label().filter(|label| label.part == Part::Directory && label.ring == ours);
    label.is_some() && table.top_at(&left.point).is_some_and(|top| top.id == left.id)
}

fn refuse_living(path: &Path, top: &Mounted, ring: &str, ours: &str) -> Result<()> {
    let shown = path.display();
    if ring != ours && ring::inspect(ring).is_ok_and(|inspected| inspected.agent_running) {
        bail!(
            "{shown} is already overlaid by the fs-agent of the ring `{ring}`: \
             stop that agent, or take the directory out of one of the configurations"
        );
    }
    match probe(path, top.id)? {
        Answer::Dead => Ok(()),
        Answer::Silent => bail!(
            "{shown} is overlaid by an fs-agent (ring `{ring}`) that does not answer: \
             stop that agent, then take its overlay away (fs-agent cleanup)"
        ),
        Answer::Alive => bail!(
            "{shown} is already overlaid by an fs-agent (ring `{ring}`): \
             stop that agent, or take the directory out of one of the configurations"
        ),
    }
}

/// Asks the mount `id`, which is on top at `path`.
fn probe(path: &Path, id: MountId) -> Result<Answer> {
    let root = open_exactly(path, id)?;
    Ok(Probe::ask(root).context("cannot start a process")?.answer(Instant::now() + ANSWER_TIME_MAX))
}

/// Opens the root of the mount `id`, which is on top at `path`.
///
/// # Errors
/// If something else is there by now.
pub fn open_exactly(path: &Path, id: MountId) -> Result<OwnedFd> {
    let root = walk::open(CWD, path).with_context(|| format!("cannot open {}", path.display()))?;
    if walk::mount_of(&root)? != id {
        bail!("{}: something else is mounted there by now", path.display());
    }
    Ok(root)
}

/// Takes the mount `id`, which is on top at `path`, out of the tree, whoever still uses it.
///
/// # Errors
/// If something else is there by now, or the system refuses.
pub fn detach(path: &Path, id: MountId) -> Result<()> {
    let root = open_exactly(path, id)?;
    match detach_fd(root.as_fd()) {
        Err(Errno::EPERM) => by_helper(path),
        other => other.with_context(|| format!("cannot unmount {}", path.display())),
    }
}

/// As [`detach`], without the help of a set-uid program.
///
/// # Errors
/// If something else is there by now, or the system refuses.
pub fn detach_exactly(path: &Path, id: MountId) -> Result<()> {
    let root = open_exactly(path, id)?;
    detach_fd(root.as_fd()).with_context(|| format!("cannot unmount {}", path.display()))
}

/// Takes the mount whose root `root` holds out of the tree, with all that is mounted on it. Where something is mounted over
/// that root, the kernel takes that instead: to be looked for before.
///
/// # Errors
/// As umount2(2) says.
pub fn detach_fd(root: BorrowedFd<'_>) -> nix::Result<()> {
    umount2(&walk::path_to(root), MntFlags::MNT_DETACH)
}

/// Has every request to the FUSE filesystem that `root` holds fail, from now on, and leaves it mounted.
///
/// # Errors
/// As umount2(2) says.
pub fn abort(root: BorrowedFd<'_>) -> nix::Result<()> {
    // The kernel ends the connection before it finds that the mount is in use: by this descriptor.
    match umount2(&walk::path_to(root), MntFlags::MNT_FORCE) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Without the privilege to unmount, the set-uid helper does it for the mount's owner.
fn by_helper(path: &Path) -> Result<()> {
    let output = Command::new(super::HELPER).args(["-u", "-z", "--"]).arg(path).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            bail!("cannot unmount {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim())
        }
        Err(error) => bail!("cannot unmount {}: {}: {error}", path.display(), super::HELPER),
    }
}

/// A mount as somebody who takes overlays away finds it.
#[derive(Clone, Debug)]
pub struct Left {
    /// Where.
    pub path: PathBuf,
    /// The mount.
    pub id: MountId,
    /// `agent.on_agent_exit` when it was mounted.
    pub on_agent_exit: OnAgentExit,
    /// `ring.name` of its agent.
    pub ring: String,
    /// The filesystems of its overlays: this one, and those that are attached to it.
    pub devices: Vec<Device>,
}

/// The overlays of directories that paths lead to; of the agent of `ring`, or of all.
///
/// # Errors
/// If the table of mounts cannot be read.
pub fn overlays(ring: Option<&str>) -> std::io::Result<Vec<Left>> {
    let table = Table::read()?;
    let overlay = |mounted: &Mounted| {
        let label = mounted.label().filter(|label| label.part == Part::Directory)?;
        let is_wanted = ring.is_none_or(|ring| ring == label.ring);
        let is_top = table.top_at(&mounted.point).is_some_and(|top| top.id == mounted.id);
        let (path, id) = (mounted.point.clone(), mounted.id);
        let is_of_it = |other: &&Mounted| other.is_overlay_of(&label.ring) && other.point.starts_with(&path);
        let devices = table.iter().filter(is_of_it).map(|other| other.device.clone()).collect();
        (is_wanted && is_top).then_some(Left {
            devices,
            path,
            id,
            on_agent_exit: label.on_agent_exit,
            ring: label.ring,
        })
    };
    Ok(table.iter().filter_map(overlay).collect())
}
