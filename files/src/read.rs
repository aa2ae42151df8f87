use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Most bytes of a file that holds settings: a configuration, an index, a recipe.
pub const MAX_CONFIG: u64 = 64 << 20;
/// Most bytes of an encoded image.
pub const MAX_IMAGE: u64 = 256 << 20;

/// `O_NONBLOCK`: opening a pipe that nobody writes to must not wait.
const NONBLOCK: i32 = 0o4000;

/// Opens a regular file; links are followed.
///
/// # Errors
/// The file is missing, cannot be read, or is a folder, a device, a pipe or a socket.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path).map_err(explain)?;
    let kind = file.metadata().map_err(explain)?.file_type();
    let wrong =
        |what: &str| Err(io::Error::new(ErrorKind::InvalidInput, format!("is {what}, not a file; check the path")));
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        wrong("a folder")
    } else if kind.is_fifo() {
        wrong("a pipe")
    } else if kind.is_socket() {
        wrong("a socket")
    } else {
        wrong("a device")
    }
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open`]; a file that is longer than `limit`, or grows beyond it meanwhile.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata().map_err(explain)?.len();
    let too_long = |found: u64| {
        let problem = format!("has {found} bytes, more than the {limit} that such a file may have");
        io::Error::new(ErrorKind::FileTooLarge, problem)
    };
    if length > limit {
        return Err(too_long(length));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize).map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(explain)?;
    if bytes.len() as u64 > limit {
        return Err(too_long(bytes.len() as u64));
    }
    Ok(bytes)
}

/// The text of a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`read`]; [`ErrorKind::InvalidData`] for bytes that are not UTF-8.
pub fn read_to_string(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        io::Error::new(ErrorKind::InvalidData, format!("is not UTF-8 text (byte {place}); save it as UTF-8"))
    })
}

/// Puts the commonest errors of the operating system into words with a cure; keeps their kind.
pub fn explain(error: io::Error) -> io::Error {
    if error.get_ref().is_some() {
        // It has words already.
        return error;
    }
    let words = match error.kind() {
        ErrorKind::NotFound => "does not exist; check the path",
        ErrorKind::IsADirectory => "is a folder, not a file; check the path",
        ErrorKind::NotADirectory => "a part of this path is a file, not a folder; check the path",
        ErrorKind::FileTooLarge => "would become longer than files may be here (`ulimit -f`); raise that limit",
        ErrorKind::AlreadyExists => "is there already; choose another path, or move it away",
        ErrorKind::PermissionDenied => "may not be accessed by this user; check its permissions",
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_files_and_long_ones_are_refused_by_kind() {
        let said = |path: &str| read(Path::new(path), 100).expect_err(path).to_string();
        assert!(said("/dev/zero").contains("a device"));
        assert!(said("/tmp").contains("a folder"));
        assert!(said("/no/such/file").contains("does not exist"));
        assert!(read(Path::new("/proc/self/exe"), 100).expect_err("long").to_string().contains("more than the 100"));
    }
}
