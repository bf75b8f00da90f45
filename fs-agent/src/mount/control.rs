//! The kernel's own view of FUSE connections (fusectl), by the device numbers of their filesystems: no path leads through any of
//! them.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
};

use anyhow::{Context, Result};
use rustix::{
    fs::{Mode, OFlags, openat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::table::Device;

/// The connections, mounted nowhere.
pub struct Control(OwnedFd);

impl Control {
    /// Looks at them.
    ///
    /// # Errors
    /// Without the privilege to mount.
    pub fn open() -> Result<Self> {
        let control = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC).context("no fusectl")?;
        fsconfig_create(&control).context("no fusectl")?;
        let control = fsmount(&control, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        control.map(Self).context("no fusectl")
    }

    /// How many requests the kernel waits for.
    ///
    /// # Errors
    /// If there is no such connection.
    pub fn waiting(&self, device: &Device) -> Result<u64> {
        let mut text = String::new();
        let mut file = self.file(device, "waiting", OFlags::RDONLY)?;
        file.read_to_string(&mut text)?;
        text.trim().parse().with_context(|| format!("fusectl says that {text:?} requests wait"))
    }

    /// Ends the connection: who waits for an answer gets an error, and so does who asks from then on.
    ///
    /// # Errors
    /// If there is no such connection.
    pub fn abort(&self, device: &Device) -> Result<()> {
        Ok(self.file(device, "abort", OFlags::WRONLY)?.write_all(b"1")?)
    }

    fn file(&self, device: &Device, name: &str, flags: OFlags) -> Result<File> {
        // A connection is called by the number of its device, whose major is 0.
        let connection = device.0.rsplit(':').next().unwrap_or_default();
        let path = format!("{connection}/{name}");
        let file = openat(&self.0, path.as_str(), flags | OFlags::CLOEXEC, Mode::empty());
        file.map(File::from).with_context(|| format!("cannot open {path} of fusectl"))
    }
}
