use std::fs::File;
use std::path::Path;

use vila_files::OwnFolder;

use crate::{Error, Result};

/// Writes a file under a temporary name and renames it: it is whole or not there. Links are refused.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    vila_files::write(path, bytes).map_err(Error::io(path))
}

/// Opens a file of the folder `out` to append to; creates folder and file where there is none. Links are refused.
pub(crate) fn append(out: &Path, name: &str) -> Result<File> {
    OwnFolder::create(out).and_then(|out| out.append(name)).map_err(Error::io(out.join(name)))
}
