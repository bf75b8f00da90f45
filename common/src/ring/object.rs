//! The ring's objects in the filesystem: which of them count, opening them, locks and removal.
//!
//! Any user can make names in the directory of shared memory: a file, a link, a FIFO, a directory, another name for a file of
//! somebody else's. So a name says nothing. What counts is an [`Object`]: opened without following a link, and then
//! found to be a regular file, of the user whose ring it is, and made under this very name. All else is as if it were
//! not there; the log says once what it is and how to remove it.
//!
//! | who looks | goes by what belongs to |
//! |---|---|
//! | an agent | its own user |
//! | a publisher, its metrics, a command that acts on what it sees | its own user, or root: how far root's lets it in, the modes say |
//! | `status` | the same; run by root, where that has no ring, another user |

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
    unistd::{AccessFlags, access, geteuid},
};
use uuid::Uuid;

use super::{
    config::SEGMENT_DIR,
    error::RingError,
    ignored::Ignored,
    layout::{self, Place},
    memory::Access,
};

/// Whose rings a process goes by, in the order in which they are drained: of two users' rings, the second is what
/// follows the first.
#[derive(Clone, Debug)]
pub(super) struct Trust(Vec<u32>);

impl Trust {
    /// What an agent goes by.
    pub(super) fn of_agent() -> Self {
        Self(vec![geteuid().as_raw()])
    }

    /// What a publisher goes by: root's last, which is what a service of the system drains.
    pub(super) fn of_publisher(trusted: Option<u32>) -> Self {
        let mut owners: Vec<u32> = [Some(geteuid().as_raw()).filter(|own| *own != 0), trusted, Some(0)]
            .into_iter()
            .flatten()
            .collect();
        owners.dedup();
        Self(owners)
    }

    /// That of one user alone.
    pub(super) fn only(owner: u32) -> Self {
        Self(vec![owner])
    }

    fn rank(&self, owner: u32) -> Option<usize> {
        self.0.iter().position(|trusted| *trusted == owner)
    }

    fn names(&self) -> String {
        self.0.iter().map(|owner| format!("uid {owner}")).collect::<Vec<_>>().join(" or ")
    }
}

/// Which of a generation's two objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Data,
    Ack,
}

impl Role {
    pub(super) const BOTH: [Self; 2] = [Self::Data, Self::Ack];

    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::Data => ".ring",
            Self::Ack => ".ack",
        }
    }
}

/// One generation of a ring by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) ring: String,
    pub(super) number: u32,
    /// The user whose ring it is.
    pub(super) owner: u32,
}

impl Generation {
    /// The object's name.
    pub(super) fn object(&self, role: Role) -> String {
        format!("{}.{}{}", self.ring, self.number, role.ending())
    }

    /// What the objects' headers say of their names.
    pub(super) fn place(&self) -> Place {
        Place::new(&self.ring, self.number)
    }

    /// Opens one of the objects, if it is there and counts.
    pub(super) fn open(&self, role: Role, access: Access) -> Result<Option<Object>, RingError> {
        open(self.object(role), &Trust::only(self.owner), access, Some(self.place()))
    }
}

/// An object that counts, opened.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) file: File,
    pub(super) name: String,
}

impl Object {
    pub(super) fn len(&self) -> Result<u64, RingError> {
        Ok(self.file.metadata().map_err(io_error("examine", path_of(&self.name)))?.len())
    }

    /// Whether the object still goes by its name, as far as can be found out.
    pub(super) fn is_named(&self) -> bool {
        let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
        match (fs::symlink_metadata(path_of(&self.name)), self.file.metadata()) {
            (Ok(named), Ok(opened)) => id(named) == id(opened),
            (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        }
    }
}

pub(super) fn path_of(object: &str) -> PathBuf {
    Path::new(SEGMENT_DIR).join(object)
}

pub(super) fn io_error(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> RingError {
    move |error| RingError::Io { action, path, error }
}

/// Opens an object of one of the users in `trust`, if it is there and counts. `place` is what its header must say if it
/// has more names than one.
pub(super) fn open(
    name: String,
    trust: &Trust,
    access: Access,
    place: Option<Place>,
) -> Result<Option<Object>, RingError> {
    let path = path_of(&name);
    // What is not trusted is not even opened. What was opened is looked at again: the name may stand for another file.
    let check = |metadata: io::Result<Metadata>| match metadata {
        Ok(metadata) => Ok(match reason_to_ignore(&metadata, trust) {
            None => Some(metadata),
            Some(why) => {
                let mut ignored = Ignored::default();
                ignored.add(&path, metadata.is_dir(), why);
                ignored.say();
                None
            }
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("examine", path.clone())(error)),
    };
    if check(fs::symlink_metadata(&path))?.is_none() {
        return Ok(None);
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(access == Access::Write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io_error("open", path.clone()))?,
    };
    let Some(metadata) = check(file.metadata())? else { return Ok(None) };
    let is_it = match metadata.nlink() {
        1 => true,
        0 => false,
        _ => place.is_some() && place == place_of(&file),
    };
    Ok(is_it.then_some(Object { file, name }))
}

/// Why what has this metadata does not count, if so.
fn reason_to_ignore(metadata: &Metadata, trust: &Trust) -> Option<String> {
    let kind = metadata.file_type();
    if !kind.is_file() {
        let kind = match kind {
            kind if kind.is_symlink() => "symbolic link",
            kind if kind.is_dir() => "directory",
            kind if kind.is_fifo() => "FIFO",
            kind if kind.is_socket() => "socket",
            _ => "device",
        };
        return Some(format!("it is a {kind} of uid {}", metadata.uid()));
    }
    let owner = metadata.uid();
    trust.rank(owner).is_none().then(|| format!("it belongs to uid {owner}, not to {}", trust.names()))
}

/// What a file's header says of its name.
fn place_of(file: &File) -> Option<Place> {
    let mut bytes = [0; layout::HEADER_LEN];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Place::decode("", &bytes).ok().flatten()
}

/// The numbers and roles for which there are names, whatever they stand for.
fn names(ring: &str) -> Result<impl Iterator<Item = (u32, Role)>, RingError> {
    let listing = fs::read_dir(SEGMENT_DIR).map_err(io_error("list", SEGMENT_DIR.into()))?;
    let ring = format!("{ring}.");
    let parse = move |name: &str| {
        let rest = name.strip_prefix(&ring)?;
        let role = Role::BOTH.into_iter().find(|role| rest.ends_with(role.ending()))?;
        let digits = rest.strip_suffix(role.ending())?;
        let number = digits.parse::<u32>().ok()?;
        // `+1` and `01` are other names.
        (number.to_string() == digits).then_some((number, role))
    };
    Ok(listing.filter_map(move |entry| parse(entry.ok()?.file_name().to_str()?)))
}

/// The generations that count, in the order in which they are drained.
pub(super) fn generations(ring: &str, trust: &Trust) -> Result<Vec<Generation>, RingError> {
    let own = geteuid().as_raw();
    let mut ignored = Ignored::default();
    let mut found = Vec::new();
    for (number, _) in names(ring)?.filter(|(_, role)| *role == Role::Data) {
        let mut generation = Generation { ring: ring.to_owned(), number, owner: own };
        let name = generation.object(Role::Data);
        let path = path_of(&name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let why = reason_to_ignore(&metadata, trust);
        let rank = trust.rank(metadata.uid()).filter(|_| why.is_none());
        let Some(rank) = rank else {
            ignored.add(&path, metadata.is_dir(), why.unwrap_or_default());
            continue;
        };
        generation.owner = metadata.uid();
        if metadata.nlink() == 1 || matches!(generation.open(Role::Data, Access::Read), Ok(Some(_))) {
            found.push((rank, generation));
        }
    }
    ignored.say();
    // Where there is one of the own user's, others that keep this process out are others' business.
    if found.iter().any(|(_, generation)| generation.owner == own) {
        let may_read = |generation: &Generation| {
            access(&path_of(&generation.object(Role::Data)), AccessFlags::R_OK) != Err(Errno::EACCES)
        };
        found.retain(|(_, generation)| generation.owner == own || may_read(generation));
    }
    found.sort_unstable_by_key(|(rank, generation)| (*rank, generation.number));
    Ok(found.into_iter().map(|(_, generation)| generation).collect())
}

/// Which numbers have a name, whatever it stands for: they are not free for a new generation.
pub(super) fn taken_numbers(ring: &str) -> Result<BTreeSet<u32>, RingError> {
    Ok(names(ring)?.map(|(number, _)| number).collect())
}

/// Consumer segments of the own user's without a data segment.
pub(super) fn orphans(ring: &str) -> Result<Vec<Generation>, RingError> {
    let named: Vec<_> = names(ring)?.collect();
    let whole: BTreeSet<u32> =
        named.iter().filter(|(_, role)| *role == Role::Data).map(|(number, _)| *number).collect();
    let owner = geteuid().as_raw();
    let alone = named.into_iter().filter(|(number, _)| !whole.contains(number));
    Ok(alone.map(|(number, _)| Generation { ring: ring.to_owned(), number, owner }).collect())
}

/// The users who have a ring of this name.
pub(super) fn owners(ring: &str) -> Result<BTreeSet<u32>, RingError> {
    let data = names(ring)?.filter(|(_, role)| *role == Role::Data);
    let owner = |(number, role): (u32, Role)| {
        let generation = Generation { ring: ring.to_owned(), number, owner: 0 };
        let metadata = fs::symlink_metadata(path_of(&generation.object(role))).ok()?;
        (metadata.is_file() && metadata.nlink() == 1).then(|| metadata.uid())
    };
    Ok(data.filter_map(owner).collect())
}

/// What a lock on an object claims: the byte of it that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The role itself; for as long as the process lives.
    Role = 0,
    /// That what the segment says of the role's holder is this holder's, and not a killed predecessor's.
    AtWork = 1,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// It is made.
    Ours,
    /// Another holder of the role has made it.
    Others,
    /// Somebody who may only read the object keeps it from being made. Holders of a role lock for writing.
    Blocked,
}

/// Makes a claim.
pub(super) fn claim(object: &Object, claim: Claim) -> Result<Claimed, RingError> {
    let failed = |errno: Errno| io_error("lock", path_of(&object.name))(errno.into());
    match fcntl(&object.file, FcntlArg::F_OFD_SETLK(&lock(claim, libc::F_WRLCK))) {
        Ok(_) => Ok(Claimed::Ours),
        Err(Errno::EAGAIN | Errno::EACCES) => match holder(&object.file, claim).map_err(failed)? {
            libc::F_RDLCK => Ok(Claimed::Blocked),
            // Whoever held it may have let it go meanwhile.
            _ => Ok(Claimed::Others),
        },
        Err(errno) => Err(failed(errno)),
    }
}

/// Gives the role up before the process ends.
pub(super) fn release(object: &Object) {
    for claim in [Claim::AtWork, Claim::Role] {
        // Unlocking fails for a descriptor that is none alone.
        let _ = fcntl(&object.file, FcntlArg::F_OFD_SETLK(&lock(claim, libc::F_UNLCK)));
    }
}

/// Whether another holder of the role has made the claim.
pub(super) fn is_claimed(object: &Object, claim: Claim) -> bool {
    holder(&object.file, claim) == Ok(libc::F_WRLCK)
}

/// The kind of lock that keeps a claim from being made; `F_UNLCK` for none.
fn holder(file: &File, claim: Claim) -> Result<i32, Errno> {
    let mut found = lock(claim, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found.l_type.into())
}

/// A lock on the byte that stands for a claim.
fn lock(claim: Claim, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: claim as i64,
        l_len: 1,
        l_pid: 0,
    }
}

pub(super) fn remove(object: &str) -> Result<(), RingError> {
    let path = path_of(object);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a generation: the data segment first, since it exists for as long as that does.
pub(super) fn remove_generation(generation: &Generation) -> Result<(), RingError> {
    Role::BOTH.into_iter().try_for_each(|role| remove(&generation.object(role)))
}

/// What tells this boot of the machine from all others (random(4)); zeros where the kernel does not say.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Uuid::parse_str(text.trim()).unwrap_or_default().into_bytes()
}
