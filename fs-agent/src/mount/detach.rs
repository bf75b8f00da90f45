//! Taking overlays away: one's own at the end, and those that a killed agent has left.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use bywash_common::ring;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
};

use super::{
    FS_TYPE, SOURCE_PREFIX,
    probe::{ANSWER_TIME_MAX, Answer, Probe},
    table,
};

/// The most overlays that are taken off one directory.
const STACK_MAX: usize = 64;

/// How an overlay went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody had anything open there.
    Clean,
    /// Nobody finds it any more, but files are still open in it.
    Lazily,
    /// It was not there any more.
    Gone,
}

/// Takes off `path` what a killed agent has left there. The ring `ours` must be held: whatever else names it is dead.
///
/// # Errors
/// If a living agent's overlay is there, or a dead one cannot be taken off.
pub fn recover(path: &Path, ours: &str) -> Result<()> {
    for _ in 0..STACK_MAX {
        let Some(top) = table::top_at(path)?.filter(|top| top.fs_type == FS_TYPE) else { return Ok(()) };
        let ring = top.source.strip_prefix(SOURCE_PREFIX).unwrap_or(&top.source);
        if ring != ours {
            refuse_living(path, ring)?;
        }
        tracing::info!("{} is still covered by an agent that has died: taking that off", path.display());
        detach(path)?;
    }
    bail!("{} is covered by more than {STACK_MAX} dead overlays: unmount them (umount -l)", path.display())
}

/// Takes off whatever an earlier agent of the ring `ours` has left, also where nothing is configured any more. The ring
/// must be held. What cannot be taken off is said.
pub fn recover_forgotten(ours: &str) {
    let forgotten = table::all().unwrap_or_default();
    for left in forgotten.iter().filter(|left| left.is_overlay_of(ours)) {
        tracing::info!(
            "{} is still covered by an agent that has died: taking that off",
            left.point.display()
        );
        if let Err(error) = detach(&left.point) {
            tracing::warn!("{error:#}");
        }
    }
}

fn refuse_living(path: &Path, ring: &str) -> Result<()> {
    let path_shown = path.display();
    if ring::inspect(ring).is_ok_and(|inspected| inspected.agent_running) {
        bail!(
            "{path_shown} is already overlaid by the fs-agent of the ring `{ring}`: \
             stop that agent, or take the directory out of one of the configurations"
        );
    }
    let probe = Probe::ask(path).context("cannot start a process")?;
    match probe.answer(Instant::now() + ANSWER_TIME_MAX) {
        Answer::Dead(_) => Ok(()),
        Answer::Silent => bail!(
            "{path_shown} is overlaid by an fs-agent (ring `{ring}`) that does not answer: \
             stop that agent, then take its overlay away (fs-agent cleanup)"
        ),
        Answer::Alive => bail!(
            "{path_shown} is already overlaid by an fs-agent (ring `{ring}`): \
             stop that agent, or take the directory out of one of the configurations"
        ),
    }
}

/// Takes this agent's overlay off `path`, if it still is there.
///
/// # Errors
/// If the system refuses.
pub fn unmount(path: &Path, ring: &str) -> Result<Unmounted> {
    if !table::top_at(path)?.is_some_and(|top| top.is_overlay_of(ring)) {
        return Ok(Unmounted::Gone);
    }
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(Unmounted::Clean),
        Err(Errno::EPERM) if by_helper(path, &["-u"]).is_ok() => Ok(Unmounted::Clean),
        Err(Errno::EINVAL | Errno::ENOENT) => Ok(Unmounted::Gone),
        Err(_) => detach(path).map(|()| Unmounted::Lazily),
    }
}

/// Takes the top mount off `path`, whoever still uses it.
///
/// # Errors
/// If the system refuses.
pub fn detach(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_helper(path, &["-u", "-z"]),
        Err(errno) => bail!("cannot unmount {}: {errno}", path.display()),
    }
}

/// Without the privilege to unmount, the set-uid helper does it for the mount's owner.
fn by_helper(path: &Path, options: &[&str]) -> Result<()> {
    let output = Command::new(super::HELPER).args(options).arg("--").arg(path).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            bail!("cannot unmount {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim())
        }
        Err(error) => bail!("cannot unmount {}: {}: {error}", path.display(), super::HELPER),
    }
}
