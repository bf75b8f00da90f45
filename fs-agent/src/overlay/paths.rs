//! Absolute paths, put together from names.

use std::sync::Arc;

use bywash_common::record::{PATH_BYTES_MAX, PATH_CUT};

use super::{
    OpenFile, Overlay,
    inode::Inode,
    links::{Link, Names},
    lock, stat_of,
};

/// The most directories above a file in its path: each takes two bytes of it at least. Names moved around behind the
/// overlay's back could form a circle.
const DEPTH_MAX: usize = PATH_BYTES_MAX / 2;

/// Where an open file is found, and what that was put together from.
pub struct KnownPath {
    /// The name; none for a file that was never looked up.
    pub link: Option<Arc<Link>>,
    /// Whether the file was opened by that name, or by another that is not known.
    pub names: Names,
    /// How many directories had been renamed.
    pub directory_moves: u64,
    /// The absolute path.
    pub bytes: Arc<[u8]>,
}

impl Overlay {
    /// Where `inode` is found that `thread` opens.
    pub(super) fn path_for_open(&self, inode: &Inode, thread: u32) -> KnownPath {
        let sure = inode.links.sole().or_else(|| {
            let asked = self.lookups.take(thread, inode.id).filter(|link| link.is_live())?;
            (!inode.links.may_be_opened_without(&asked)).then_some(asked)
        });
        let names = if sure.is_some() { Names::One } else { Names::Several };
        self.path_by(inode, sure.or_else(|| inode.links.first()), names)
    }

    /// Where `inode` is found that was opened by `link`.
    pub(super) fn path_by(&self, inode: &Inode, link: Option<Arc<Link>>, names: Names) -> KnownPath {
        let directory_moves = self.inodes.directory_moves();
        let bytes = self.bytes_of(inode, link.as_ref());
        KnownPath { link, names, directory_moves, bytes }
    }

    fn bytes_of(&self, inode: &Inode, link: Option<&Arc<Link>>) -> Arc<[u8]> {
        link.map_or_else(
            || self.path.as_slice().into(),
            |link| put_together(&self.path, link, inode.number()),
        )
    }

    /// The absolute path under which `file` is reached now, or was last if it is deleted. Where a file has several
    /// names it is the one by which it was opened, for as long as that is there; the oldest, where that is not known.
    pub fn path_of(&self, file: &OpenFile) -> Arc<[u8]> {
        let directory_moves = self.inodes.directory_moves();
        let mut known = lock(&file.path);
        let link_is_live = known.link.as_ref().is_some_and(|link| link.is_live());
        if link_is_live && known.directory_moves == directory_moves {
            return Arc::clone(&known.bytes);
        }
        if !link_is_live {
            known.link = file.inode.links.instead_of(known.link.as_deref());
        }
        known.directory_moves = directory_moves;
        known.bytes = self.bytes_of(&file.inode, known.link.as_ref());
        Arc::clone(&known.bytes)
    }

    /// Whether `file` was opened by a path that `matches`: the one that [`Self::path_of`] gave last, or else the one of
    /// the open. Where that is not known, all that the file has must match.
    pub fn was_opened_by(&self, file: &OpenFile, matches: impl Fn(&[u8]) -> bool) -> bool {
        let (names, bytes) = {
            let known = lock(&file.path);
            (known.names, Arc::clone(&known.bytes))
        };
        if !matches(&bytes) {
            return false;
        }
        let all_match = || {
            let links = file.inode.links.live();
            let count = file.fd().and_then(stat_of).map_or(u32::MAX, |stat| stat.stx_nlink);
            links.len() == count as usize
                && links.iter().all(|link| matches(&self.bytes_of(&file.inode, Some(link))))
        };
        names == Names::One || all_match()
    }
}

/// The path of the file with inode number `ino` by `link`, which is below `root`. One that is too long begins as it does,
/// has [`PATH_CUT`] where it is cut, and ends in the inode number and the file's own name.
fn put_together(root: &[u8], link: &Arc<Link>, ino: u64) -> Arc<[u8]> {
    let mut chain = vec![Arc::clone(link)];
    let mut len = root.len() + 1 + link.name.len();
    while chain.len() <= DEPTH_MAX
        && let Some(above) = chain.last().and_then(|link| link.parent.links.first())
    {
        len += 1 + above.name.len();
        chain.push(above);
    }
    if len > PATH_BYTES_MAX || chain.len() > DEPTH_MAX {
        return cut(root, &chain, ino);
    }
    let mut path = Vec::with_capacity(len);
    path.extend_from_slice(root);
    chain.iter().rev().for_each(|link| push_name(&link.name, &mut path));
    path.into()
}

fn cut(root: &[u8], chain: &[Arc<Link>], ino: u64) -> Arc<[u8]> {
    let name = chain.first().map_or(&[][..], |link| &link.name);
    let end = [PATH_CUT, ino.to_string().as_bytes(), b"/", name].concat();
    let room = PATH_BYTES_MAX - end.len();
    let mut path = root[..root.len().min(room)].to_vec();
    // Without its upper end, nobody knows where the path begins.
    let whole = chain.len() <= DEPTH_MAX;
    for above in chain.iter().skip(1).rev().filter(|_| whole) {
        if path.len() + 1 + above.name.len() > room {
            break;
        }
        push_name(&above.name, &mut path);
    }
    path.extend_from_slice(&end);
    path.into()
}

fn push_name(name: &[u8], path: &mut Vec<u8>) {
    path.push(b'/');
    path.extend_from_slice(name);
}
