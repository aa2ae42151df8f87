//! Files of `torch.save` (`.bin`, `.pt`): a zip archive of one pickle, which describes tensors, and one entry per storage.
//!
//! Nothing is unpacked or copied: a tensor is a byte range of the file, as in safetensors. Checksums are not verified.

use std::ops::Range;
use std::path::Path;

use safetensors::tensor::Dtype;

use crate::pickle::{self, Claim};
use crate::zip::{self, Entries};
use crate::{Error, Result};

/// A tensor in a file of weights.
#[derive(Clone, Debug, PartialEq)]
pub struct FileTensor {
    /// Its name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Its little-endian elements in row order, as a range of the file's bytes.
    pub bytes: Range<usize>,
}

/// Lists the tensors in the content of a file of `torch.save`; `path` names it in errors.
///
/// # Errors
/// [`Error::Format`] for whatever is not a table of contiguous tensors within the file; the description is never run.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<FileTensor>> {
    let refuse = |problem: String| Error::format(path, problem);
    if bytes.first() == Some(&0x80) {
        return Err(refuse(
            "is in the format before PyTorch 1.6, a bare pickle; load it where it came from and save it again".into(),
        ));
    }
    if !bytes.starts_with(b"PK") {
        return Err(refuse("is not a file of torch.save (a zip archive); fetch or save it again".into()));
    }
    let archive = Archive::read(bytes).map_err(refuse)?;
    let claims =
        pickle::tensors(archive.content("data.pkl").map_err(refuse)?).map_err(|error| refuse(error.to_string()))?;
    let tensors = claims.iter().map(|claim| archive.tensor(claim)).collect::<Checked<Vec<_>>>().map_err(refuse)?;
    // Tied tensors share their data; more sharing than that would make a small file a model of any size.
    let described = tensors.iter().fold(0usize, |sum, tensor| sum.saturating_add(tensor.bytes.len()));
    if described / MAX_SHARING > bytes.len() {
        return Err(refuse(format!("describes {described} bytes of tensors in {} bytes", bytes.len())));
    }
    Ok(tensors)
}

const MAX_SHARING: usize = 4;

type Checked<T> = std::result::Result<T, String>;

struct Archive<'a> {
    bytes: &'a [u8],
    entries: Entries<'a>,
    /// Name of the folder in which all entries lie.
    folder: &'a str,
}

impl<'a> Archive<'a> {
    fn read(bytes: &'a [u8]) -> Checked<Self> {
        let entries = zip::entries(bytes).map_err(|error| error.to_string())?;
        let mut folders = entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
        let (Some(folder), None) = (folders.next(), folders.next()) else {
            return Err("is a zip archive, but not of torch.save: it must have one data.pkl".into());
        };
        let archive = Archive { bytes, entries, folder };
        // Files before PyTorch 2.1 do not say; they come from little-endian machines.
        match archive.content("byteorder") {
            Err(_) | Ok(b"little") => Ok(archive),
            Ok(_) => Err("was not saved on a little-endian machine; save it again on one".into()),
        }
    }

    fn range(&self, name: &str) -> Checked<Range<usize>> {
        let full = format!("{}/{name}", self.folder);
        self.entries.get(full.as_str()).cloned().ok_or_else(|| format!("lacks the entry {full:?}"))
    }

    fn content(&self, name: &str) -> Checked<&'a [u8]> {
        self.bytes.get(self.range(name)?).ok_or_else(|| format!("lacks the entry {name:?}"))
    }

    /// Where the elements of a tensor lie.
    fn tensor(&self, claim: &Claim) -> Checked<FileTensor> {
        let Claim { name, storage, .. } = claim;
        let entry = self.range(&format!("data/{}", storage.key)).map_err(|error| format!("{error} of {name:?}"))?;
        let width = storage.dtype.bitsize() / 8;
        if storage.elements.checked_mul(width) != Some(entry.len()) {
            return Err(format!(
                "holds {} bytes for {name:?}, which has a storage of {} elements of {:?}; fetch it again",
                entry.len(),
                storage.elements,
                storage.dtype
            ));
        }
        // Offset and length lie within the storage, and so within the entry.
        let start = entry.start + claim.offset * width;
        let bytes = start..start + claim.elements * width;
        Ok(FileTensor { name: (*name).into(), dtype: storage.dtype, shape: claim.shape.clone(), bytes })
    }
}
