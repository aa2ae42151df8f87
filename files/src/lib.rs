//! The only code that opens foreign files by path, and the only code that moves or removes anything.
//!
//! * [`read`] and [`open`] accept regular files alone and at most as many bytes as the caller expects: a device, a pipe or a
//!   sparse file of terabytes is refused with its kind or its size, before anything is read.
//! * [`map`] maps a file, and names it if it is cut while it is in use.
//! * [`OwnFolder`], [`NewFolder`], [`write()`], [`create`] and [`link`] are all that renames, replaces or removes; a lint forbids it
//!   elsewhere. They work on entries directly below a folder of the program's own and refuse links, so that nothing foreign can be
//!   reached.
//! * Errors keep their [`std::io::ErrorKind`] and say in words what to do, so that callers only add the path.

mod map;
mod owned;
mod printable;
mod read;

pub use map::{Map, map};
pub use owned::{NewFolder, OwnFolder, create, link, parent_of, write};
pub use printable::printable;
pub use read::{MAX_CONFIG, MAX_IMAGE, explain, open, read, read_to_string};
