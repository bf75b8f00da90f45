//! Mounting overlays.
//!
//! With the privilege for it, an overlay is mounted by descriptors: the connection is made and served before anybody sees
//! a mount, all overlays of a directory are put together while they are attached nowhere, and one system call attaches
//! them to the directory that was looked at before, whatever its path leads to by then. Without it, the set-uid helper
//! mounts by path.

use std::{
    fs::File,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result};
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::{
    fs::{StatVfsMountFlags, fstatvfs},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    },
    process::{getegid, geteuid},
};

use super::{
    DEVICE,
    label::{Label, SUBTYPE},
    table::Device,
    walk,
};
use crate::{
    fuse::{
        Connection,
        handshake::{self, Wishes},
    },
    privilege::{may_administer, others_allowed},
};

/// The flags of mounts, as statvfs(3) and as fsmount(2) have them, and as the set-uid helper has them where it grants them.
/// An overlay forbids what the mount below forbids.
const FLAGS: [(StatVfsMountFlags, MountAttrFlags, Option<MountOption>); 6] = [
    (StatVfsMountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY, Some(MountOption::RO)),
    (StatVfsMountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC, Some(MountOption::NoExec)),
    (StatVfsMountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME, Some(MountOption::NoAtime)),
    (StatVfsMountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME, None),
    (StatVfsMountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV, None),
    (StatVfsMountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID, None),
];

/// ST_NOSYMFOLLOW of statfs(2), which the library does not name.
const NOSYMFOLLOW: u64 = 0x2000;

/// An overlay that is connected and attached nowhere yet.
pub struct Connected {
    /// Its requests.
    pub connection: Connection,
    /// Its root. Closed before it is attached, the overlay is gone.
    pub root: OwnedFd,
    /// Its filesystem.
    pub device: Device,
}

/// Connects an overlay of what `below` holds.
///
/// # Errors
/// If the system refuses.
pub fn connect(below: BorrowedFd<'_>, label: &Label, wishes: Wishes) -> Result<Connected> {
    let flags = flags_of(below)?;
    let device =
        File::options().read(true).write(true).open(DEVICE).context("cannot open the FUSE device")?;
    let fs = filesystem(&device, label).context("cannot make a FUSE filesystem")?;
    let root = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags).context("cannot make a mount")?;
    let filesystem = walk::device_of(&root).or_else(|_| device_by_number(&root))?;
    let connection = Connection::shake_hands(device.into(), wishes).context("cannot speak to the kernel")?;
    Ok(Connected { connection, root, device: filesystem })
}

fn filesystem(device: &File, label: &Label) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let number = |n: u32| n.to_string();
    fsconfig_set_string(&fs, "fd", device.as_raw_fd().to_string())?;
    // A directory.
    fsconfig_set_string(&fs, "rootmode", "40000")?;
    fsconfig_set_string(&fs, "user_id", number(geteuid().as_raw()))?;
    fsconfig_set_string(&fs, "group_id", number(getegid().as_raw()))?;
    fsconfig_set_string(&fs, "subtype", SUBTYPE)?;
    fsconfig_set_string(&fs, "source", label.to_string())?;
    fsconfig_set_flag(&fs, "default_permissions")?;
    fsconfig_set_flag(&fs, "allow_other")?;
    fsconfig_create(&fs)?;
    Ok(fs)
}

/// The table shows no mount that is attached nowhere: its device is that of its root then.
fn device_by_number(root: &OwnedFd) -> Result<Device> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    // Nobody answers yet: what is asked for is known without.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(root, "", flags, StatxFlags::empty()).context("cannot examine a new mount")?;
    Ok(Device(format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor)))
}

/// Mounts an overlay on `path`, by the set-uid helper if this process may not.
///
/// # Errors
/// If the system or the helper refuses.
pub fn mount_by_path(path: &Path, below: BorrowedFd<'_>, label: &Label, wishes: Wishes) -> Result<Connected> {
    let mut options = vec![
        MountOption::DefaultPermissions,
        // The library would leave MountOption::Subtype to the privileged alone.
        MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
        MountOption::FSName(label.to_string()),
    ];
    let flags = flags_of(below)?;
    options.extend(
        FLAGS.into_iter().filter(|(_, flag, _)| flags.contains(*flag)).filter_map(|(.., option)| option),
    );
    if may_administer() {
        // What the FUSE library would forbid by itself, and the helper grants to nobody.
        let forbids = |flag| flags.contains(flag);
        let (no_dev, no_suid) =
            (forbids(MountAttrFlags::MOUNT_ATTR_NODEV), forbids(MountAttrFlags::MOUNT_ATTR_NOSUID));
        options.push(if no_dev { MountOption::NoDev } else { MountOption::Dev });
        options.push(if no_suid { MountOption::NoSuid } else { MountOption::Suid });
    }
    let mut config = Config::default();
    config.acl = if others_allowed() { SessionACL::All } else { SessionACL::Owner };
    config.mount_options = options;
    let (session, negotiated) =
        handshake::settle(wishes, |negotiator| Session::new(negotiator, path, &config))
            .with_context(|| format!("cannot mount an overlay on {}", path.display()))?;
    let connection = Connection::of_session(session, negotiated).context("cannot duplicate a descriptor")?;
    let root = walk::open_dir(path).context("cannot open the new mount")?;
    let device = walk::device_of(&root).context("cannot examine the new mount")?;
    Ok(Connected { connection, root, device })
}

/// What the mount below forbids.
fn flags_of(below: BorrowedFd<'_>) -> Result<MountAttrFlags> {
    let set = fstatvfs(below).context("cannot examine the directory below")?.f_flag;
    let set_flags = FLAGS.iter().filter(|(below, ..)| set.contains(*below)).map(|(_, flag, _)| *flag);
    let mut flags: MountAttrFlags = set_flags.collect();
    if set.bits() & NOSYMFOLLOW != 0 {
        flags |= MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;
    }
    if !may_administer() {
        // The helper decides these.
        flags.remove(MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID);
    }
    Ok(flags)
}

/// Where a mount goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Over what is there.
    Top,
    /// Under the mount that is there: nobody sees it before that one is gone. From Linux 6.5 on.
    BeneathTop,
}

/// Attaches the mount `mount`, which is attached nowhere, to `to`.
///
/// # Errors
/// As move_mount(2) says. `EINVAL` where the kernel cannot attach it in this way.
pub fn attach(mount: BorrowedFd<'_>, to: BorrowedFd<'_>, place: Place) -> rustix::io::Result<()> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    if place == Place::BeneathTop {
        flags |= MoveMountFlags::MOVE_MOUNT_BENEATH;
    }
    move_mount(mount, "", to, "", flags)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{fd::AsFd, unix::fs::symlink},
    };

    use super::super::{detach_fd, table::Table, walk};
    use super::*;

    /// A filesystem that is attached nowhere; none where nothing can be mounted.
    fn tmpfs() -> Option<OwnedFd> {
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        fsconfig_create(&fs).unwrap();
        Some(fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap())
    }

    #[test]
    fn what_was_opened_is_covered_whatever_its_path_leads_to_by_then() {
        let Some(overlay) = tmpfs() else { return println!("skipped: only root can mount") };
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(at("home/logs")).unwrap();
        fs::create_dir_all(at("system/logs")).unwrap();
        let opened = walk::open_dir(&at("home/logs")).unwrap();
        // Whoever owns the directory above can do this at any time.
        fs::rename(at("home"), at("moved")).unwrap();
        symlink(at("system"), at("home")).unwrap();
        attach(overlay.as_fd(), opened.as_fd(), Place::Top).unwrap();
        let table = Table::read().unwrap();
        let covered: Vec<_> =
            table.iter().map(|mounted| &mounted.point).filter(|p| p.starts_with(place.path())).collect();
        assert_eq!(covered, [&at("moved/logs")]);
        assert!(walk::open_dir(&at("home/logs")).is_err(), "no link is followed");
        detach_fd(overlay.as_fd()).unwrap();
    }

    #[test]
    fn another_mount_takes_the_place_of_one_without_a_moment_between() {
        let (Some(old), Some(new)) = (tmpfs(), tmpfs()) else {
            return println!("skipped: only root can mount");
        };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap();
        attach(old.as_fd(), walk::open_dir(&path).unwrap().as_fd(), Place::Top).unwrap();
        let top = walk::open_dir(&path).unwrap();
        match attach(new.as_fd(), top.as_fd(), Place::BeneathTop) {
            Err(rustix::io::Errno::INVAL) => {
                println!("skipped: this kernel lets nobody mount beneath (Linux 6.5)")
            }
            attached => {
                attached.unwrap();
                assert_eq!(
                    walk::mount_of(walk::open_dir(&path).unwrap()).unwrap(),
                    walk::mount_of(&old).unwrap()
                );
                detach_fd(top.as_fd()).unwrap();
                assert_eq!(
                    walk::mount_of(walk::open_dir(&path).unwrap()).unwrap(),
                    walk::mount_of(&new).unwrap()
                );
            }
        }
        drop(top);
        let left = walk::open_dir(&path).unwrap();
        detach_fd(left.as_fd()).unwrap();
    }
}
