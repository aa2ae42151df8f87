use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::explain;

/// `O_NOFOLLOW`: a link in the place of a file is an error, and what it points to stays as it is.
const NOFOLLOW: i32 = 0o400_000;

/// A folder whose entries the program may move and remove.
///
/// Every call names an entry directly below the folder, and refuses one that is a symbolic link: what a link points to is
/// somebody else's. The folder's own path may contain links; they are resolved once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFolder {
    path: PathBuf,
}

impl OwnFolder {
    /// Opens a folder, and creates it where there is none.
    ///
    /// # Errors
    /// It cannot be created, or is no folder.
    pub fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path).map_err(explain)?;
        Self::open(path)
    }

    /// Opens a folder that is there.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path).map_err(explain)?;
        if path.is_dir() { Ok(OwnFolder { path }) } else { Err(wrong(ErrorKind::NotADirectory, "is not a folder")) }
    }

    /// Where it is, links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder directly below, created where there is none.
    ///
    /// # Errors
    /// It is a link or a file, or cannot be created.
    pub fn folder(&self, name: impl AsRef<OsStr>) -> io::Result<OwnFolder> {
        let (path, found) = self.entry(name.as_ref())?;
        match found {
            None => fs::create_dir(&path).map_err(explain)?,
            Some(found) if found.is_dir() => {}
            Some(_) => return Err(wrong(ErrorKind::NotADirectory, "is a file where the program keeps a folder")),
        }
        Ok(OwnFolder { path })
    }

    /// Whether an entry is there and is no link.
    pub fn has(&self, name: impl AsRef<OsStr>) -> bool {
        self.entry(name.as_ref()).is_ok_and(|(_, found)| found.is_some())
    }

    /// Writes a file whole: under a temporary name first, flushed, then renamed over what was there.
    ///
    /// # Errors
    /// The entry is a link or a folder, or the disk refuses.
    pub fn write(&self, name: impl AsRef<OsStr>, bytes: &[u8]) -> io::Result<()> {
        self.write_with(name, |file| file.write_all(bytes))
    }

    /// As [`OwnFolder::write`], with what `fill` writes.
    ///
    /// # Errors
    /// Those of [`OwnFolder::write`] and of `fill`.
    pub fn write_with(
        &self,
        name: impl AsRef<OsStr>,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let (path, _) = self.file_entry(name.as_ref())?;
        let partial = unique(&self.path, name.as_ref(), |path| {
            OpenOptions::new().write(true).create_new(true).open(path).map(|file| (path.to_path_buf(), file))
        });
        let (partial, mut file) = partial?;
        let written = fill(&mut file).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&partial, &path));
        written.inspect_err(|_| {
            // The first error is the one to tell; this name is ours alone.
            let _ = fs::remove_file(&partial);
        })
    }

    /// Opens a file to append to, and creates it where there is none.
    ///
    /// # Errors
    /// The entry is a link or a folder, or cannot be opened.
    pub fn append(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let (path, _) = self.file_entry(name.as_ref())?;
        OpenOptions::new().append(true).create(true).custom_flags(NOFOLLOW).open(path).map_err(explain)
    }

    /// Creates and locks a file that only one process may hold; `None` if another does.
    ///
    /// # Errors
    /// The entry is a link or a folder, or cannot be opened.
    pub fn lock(&self, name: impl AsRef<OsStr>) -> io::Result<Option<File>> {
        let file = self.append(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Lets the link `name` point to `target`; only a link, or nothing, may stand there.
    ///
    /// # Errors
    /// A file or folder stands there, or the disk refuses.
    pub fn point(&self, name: impl AsRef<OsStr>, target: &Path) -> io::Result<()> {
        let path = self.path.join(plain(name.as_ref())?);
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_symlink()) {
            return Err(wrong(ErrorKind::AlreadyExists, "is no link, where the program keeps one"));
        }
        let link = |partial: &Path| std::os::unix::fs::symlink(target, partial).map(|()| partial.to_path_buf());
        let partial = unique(&self.path, name.as_ref(), link)?;
        fs::rename(&partial, &path).inspect_err(|_| drop(fs::remove_file(&partial)))
    }

    /// Gives an entry another name, which nothing may have yet.
    ///
    /// # Errors
    /// The entry is a link or is not there, the new name is taken, or the disk refuses.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
        self.move_to(from, self, to)
    }

    /// Moves an entry into another folder of the program's own.
    ///
    /// # Errors
    /// Those of [`OwnFolder::rename`].
    pub fn move_to(&self, from: impl AsRef<OsStr>, other: &OwnFolder, to: impl AsRef<OsStr>) -> io::Result<()> {
        let ((from, found), (to, taken)) = (self.entry(from.as_ref())?, other.entry(to.as_ref())?);
        if found.is_none() {
            return Err(explain(ErrorKind::NotFound.into()));
        }
        if taken.is_some() {
            return Err(wrong(ErrorKind::AlreadyExists, "cannot be renamed to a name that is taken"));
        }
        fs::rename(from, to).map_err(explain)
    }

    /// Gives a file another name; a file that has it is replaced.
    ///
    /// # Errors
    /// One of the two is a link or a folder, or the disk refuses.
    pub fn replace(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
        let ((from, _), (to, _)) = (self.file_entry(from.as_ref())?, self.file_entry(to.as_ref())?);
        fs::rename(from, to).map_err(explain)
    }

    /// Removes a file, or nothing if there is none.
    ///
    /// # Errors
    /// The entry is a link or a folder, or the disk refuses.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        match self.file_entry(name.as_ref())? {
            (path, Some(_)) => fs::remove_file(path).map_err(explain),
            (_, None) => Ok(()),
        }
    }

    /// Removes a link and leaves alone what it points to; anything else under this name stays, too.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove_link(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let path = self.path.join(plain(name.as_ref())?);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => fs::remove_file(path).map_err(explain),
            _ => Ok(()),
        }
    }

    /// Removes a folder with everything in it. The caller knows that the program made all of it: an unfinished write, by its
    /// name.
    ///
    /// # Errors
    /// The entry is a link or a file, or the disk refuses.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        match self.entry(name.as_ref())? {
            (path, Some(found)) if found.is_dir() => fs::remove_dir_all(path).map_err(explain),
            (_, Some(_)) => Err(wrong(ErrorKind::NotADirectory, "is a file where the program keeps a folder")),
            (_, None) => Ok(()),
        }
    }

    /// Removes the listed files (paths below the folder `name`) and every folder that this leaves empty. What the list does not
    /// name stays; returns whether the folder is gone.
    ///
    /// # Errors
    /// The entry is a link, or the disk refuses.
    pub fn remove_listed(&self, name: impl AsRef<OsStr>, files: &[&Path]) -> io::Result<bool> {
        let (path, Some(found)) = self.entry(name.as_ref())? else { return Ok(true) };
        if !found.is_dir() {
            return Err(wrong(ErrorKind::NotADirectory, "is a file where the program keeps a folder"));
        }
        for file in files {
            if let Some((folder, name)) = below(&path, file) {
                match folder.remove_file(name) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        remove_empty(&path)
    }

    /// An entry directly below: its path, and what is there. Links are refused.
    fn entry(&self, name: &OsStr) -> io::Result<(PathBuf, Option<Metadata>)> {
        let path = self.path.join(plain(name)?);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let target = fs::read_link(&path).unwrap_or_default();
                let problem = format!(
                    "is a link to {}; the program changes only what it made itself: remove the link, or choose another folder",
                    target.display()
                );
                Err(io::Error::new(ErrorKind::InvalidInput, problem))
            }
            Ok(found) => Ok((path, Some(found))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok((path, None)),
            Err(error) => Err(explain(error)),
        }
    }

    fn file_entry(&self, name: &OsStr) -> io::Result<(PathBuf, Option<Metadata>)> {
        match self.entry(name)? {
            (_, Some(found)) if !found.is_file() => {
                Err(wrong(ErrorKind::InvalidInput, "is not a file, where the program keeps one; move it away"))
            }
            entry => Ok(entry),
        }
    }
}

/// A folder that appears whole or not at all: written beside its place, renamed at the end, removed if dropped before.
#[derive(Debug)]
pub struct NewFolder {
    parent: OwnFolder,
    name: PathBuf,
    partial: PathBuf,
    /// Tells other processes that the unfinished folder is in use.
    _held: File,
    committed: bool,
}

/// Between a name and a number, the mark of what is written beside its place.
const PARTIAL: &str = ".partial-";

impl NewFolder {
    /// Begins the folder that will be `target`; clears up what killed processes left of it.
    ///
    /// # Errors
    /// `target` is there already (an empty folder may be), has no name, or its parent cannot be written.
    pub fn begin(target: &Path) -> io::Result<Self> {
        let name =
            target.file_name().ok_or_else(|| wrong(ErrorKind::InvalidInput, "has no name; name a new folder"))?;
        let parent = OwnFolder::create(parent_of(target))?;
        check_free(&parent.path.join(name))?;
        clear_leftovers(&parent, name);
        let partial = unique(&parent.path, name, |path| fs::create_dir(path).map(|()| path.to_path_buf()))?;
        let held = File::open(&partial)?;
        held.try_lock().map_err(|_| wrong(ErrorKind::ResourceBusy, "cannot be locked"))?;
        Ok(NewFolder { parent, name: name.into(), partial, _held: held, committed: false })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Lets the folder have another name beside the first one.
    pub fn rename(&mut self, name: &OsStr) {
        self.name = name.into();
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// Somebody else took the name meanwhile, or the disk refuses.
    pub fn commit(mut self) -> io::Result<()> {
        let target = self.parent.path.join(&self.name);
        File::open(&self.partial)?.sync_all()?;
        check_free(&target)?;
        fs::rename(&self.partial, &target).map_err(explain)?;
        self.committed = true;
        File::open(&self.parent.path)?.sync_all()
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.committed {
            // The error that led here is the one to tell.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn check_free(target: &Path) -> io::Result<()> {
    let taken = || wrong(ErrorKind::AlreadyExists, "is there already; name a new folder, or move what is there");
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(explain(error)),
        Ok(found) if found.is_dir() && fs::read_dir(target).map_err(explain)?.next().is_none() => Ok(()),
        Ok(_) => Err(taken()),
    }
}

/// Removes unfinished folders of `name` that no living process holds.
fn clear_leftovers(parent: &OwnFolder, name: &OsStr) {
    let prefix = partial_prefix(name);
    for entry in fs::read_dir(&parent.path).into_iter().flatten().flatten() {
        let ours = entry.file_name().as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes()).is_some_and(|number| {
            !number.is_empty() && number.iter().all(|&byte| byte.is_ascii_digit() || byte == b'-')
        });
        let abandoned = |folder: File| folder.try_lock().is_ok();
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && File::open(entry.path()).is_ok_and(abandoned) {
            // Another process may clear up at the same time.
            let _ = parent.remove_tree(entry.file_name());
        }
    }
}

/// Creates a file where there is none: what is there already, or a link, is an error.
///
/// # Errors
/// Something has this name, or the disk refuses.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path).map_err(explain)
}

/// Gives a file a second name; a copy where the file system has no such thing.
///
/// # Errors
/// Something has the new name, or the disk refuses.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            let mut copy = create(to)?;
            io::copy(&mut crate::open(from)?, &mut copy)?;
            copy.sync_all()
        }
        linked => linked.map_err(explain),
    }
}

/// Writes a file whole at a path that the user named: a file there is replaced, a device or pipe is written to.
///
/// # Errors
/// The path is a folder or a link to a file, or the disk refuses.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Ok(found) = fs::metadata(path)
        && !found.is_file()
        && !found.is_dir()
    {
        return OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(bytes)).map_err(explain);
    }
    let name = path.file_name().ok_or_else(|| wrong(ErrorKind::InvalidInput, "has no file name"))?;
    OwnFolder::open(parent_of(path))?.write(name, bytes)
}

/// The folder that a path lies in: the working one for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The one component of a name; nothing may lead out of a folder.
fn plain(name: &OsStr) -> io::Result<&OsStr> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(part),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, format!("{name:?} is not the name of a file or folder"))),
    }
}

/// The folder and name of a path below `root`, unless a part of it is missing, a link or a step upwards.
fn below<'a>(root: &Path, path: &'a Path) -> Option<(OwnFolder, &'a OsStr)> {
    let name = path.file_name()?;
    let mut folder = OwnFolder { path: root.to_path_buf() };
    for part in path.parent()?.components() {
        let (path, found) = folder.entry(part.as_os_str()).ok()?;
        found.filter(Metadata::is_dir)?;
        folder = OwnFolder { path };
    }
    Some((folder, name))
}

/// Removes a folder and those below it as far as they are empty; whether it is gone.
fn remove_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path).map_err(explain)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(explain(error)),
    }
}

fn partial_prefix(name: &OsStr) -> std::ffi::OsString {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(PARTIAL);
    prefix
}

/// Tries names for something unfinished until one is free.
fn unique<T>(folder: &Path, name: &OsStr, mut make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<T> {
    let prefix = partial_prefix(name);
    for number in 0u32.. {
        let mut candidate = prefix.clone();
        candidate.push(format!("{}-{number}", std::process::id()));
        match make(&folder.join(candidate)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 10_000 => {}
            made => return made.map_err(explain),
        }
    }
    Err(wrong(ErrorKind::AlreadyExists, "has too many unfinished copies beside it"))
}

fn wrong(kind: ErrorKind, problem: &str) -> io::Error {
    io::Error::new(kind, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> OwnFolder {
        let path = std::env::temp_dir().join(format!("vila-files-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        OwnFolder::create(&path).expect("scratch")
    }

    #[test]
    fn links_are_never_followed_by_a_change() {
        let root = scratch("links");
        let (own, foreign) = (root.folder("own").expect("own"), root.folder("foreign").expect("foreign"));
        foreign.write("notes.txt", b"mine").expect("write");
        let link = |name: &str, to: &Path| std::os::unix::fs::symlink(to, own.path().join(name)).expect("link");
        link("folder", foreign.path());
        link("file", &foreign.path().join("notes.txt"));
        assert!(own.write("file", b"other").is_err());
        assert!(own.append("file").is_err() && own.lock("file").is_err());
        assert!(own.remove_file("file").is_err() && own.remove_tree("folder").is_err());
        assert!(own.folder("folder").is_err() && own.rename("folder", "moved").is_err());
        assert!(own.remove_listed("folder", &[Path::new("notes.txt")]).is_err());
        assert!(own.write("../foreign/notes.txt", b"x").is_err() && own.remove_tree("..").is_err());
        own.point("folder", Path::new("elsewhere")).expect("a link may point elsewhere");
        own.remove_link("folder").expect("link");
        assert_eq!(fs::read(foreign.path().join("notes.txt")).expect("notes"), b"mine");
        fs::remove_dir_all(root.path()).expect("clear");
    }

    #[test]
    fn only_listed_files_go() {
        let root = scratch("listed");
        let inner = root.folder("made").expect("folder").folder("part").expect("part");
        inner.write("weights", b"w").expect("write");
        inner.write("notes", b"n").expect("write");
        assert!(!root.remove_listed("made", &[Path::new("part/weights"), Path::new("../../x")]).expect("listed"));
        assert!(inner.has("notes") && !inner.has("weights"));
        assert!(root.remove_listed("made", &[Path::new("part/notes")]).expect("listed") && !root.has("made"));
        fs::remove_dir_all(root.path()).expect("clear");
    }

    #[test]
    fn new_folders_are_whole_or_not_there() {
        let root = scratch("new");
        let target = root.path().join("model");
        let dropped = NewFolder::begin(&target).expect("begin");
        fs::write(dropped.path().join("a"), "x").expect("write");
        let second = NewFolder::begin(&target).expect("two at once");
        assert_ne!(dropped.path(), second.path());
        drop(dropped);
        assert!(second.path().exists());
        // As a killed process leaves it.
        root.folder(".model.partial-1-0").expect("leftover");
        root.folder(".model.partial-mine").expect("foreign");
        second.commit().expect("commit");
        assert!(target.is_dir() && NewFolder::begin(&root.path().join("model")).is_ok());
        fs::write(target.join("a"), "x").expect("write");
        assert!(NewFolder::begin(&target).is_err());
        assert!(!root.has(".model.partial-1-0") && root.has(".model.partial-mine"));
        fs::remove_dir_all(root.path()).expect("clear");
    }
}
