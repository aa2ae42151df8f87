//! The kernel sources, compiled for a target on first use and kept on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

use crate::driver::{Driver, Error, Function, Result, Target};
use crate::embedded::{EMBEDDED, Match, find};
use crate::manifest::{self, Entry};
use crate::nvrtc::{Compiled, Nvrtc, options};

/// One `.cu` file.
#[derive(Clone, Debug)]
pub struct Source {
    /// File name without extension.
    pub name: String,
    /// Text.
    pub text: String,
}

/// The header that every source includes: name and text.
pub const HEADER: (&str, &str) = ("device.cuh", include_str!("../kernels/device.cuh"));

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../kernels/", $name, ".cu")))),*]
    };
}

const SOURCES: &[(&str, &str)] = sources![
    "adamw",
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_plain",
    "column_sums",
    "dropout",
    "elementwise",
    "extract_patches",
    "gelu",
    "gradient_gate",
    "layer_norm",
    "linear_cross_entropy",
    "rms_norm",
    "rope",
    "rows",
    "sample",
    "scatter_add_rows",
    "sum_squares",
    "swiglu",
    "vision_embed",
];

/// All sources of this build.
pub fn sources() -> Vec<Source> {
    SOURCES.iter().map(|(name, text)| Source { name: (*name).into(), text: (*text).into() }).collect()
}

static CACHE: OnceLock<PathBuf> = OnceLock::new();

/// Keeps compiled kernels in `directory` from now on, unless another was chosen before.
pub fn use_cache_in(directory: PathBuf) {
    CACHE.get_or_init(|| directory);
}

/// Where compiled kernels are kept: as chosen, else `VILA_CACHE_DIR`, else the user's cache folder.
pub fn cache_directory() -> Option<PathBuf> {
    if let Some(chosen) = CACHE.get() {
        return Some(chosen.clone());
    }
    let own = std::env::var_os("VILA_CACHE_DIR").map(PathBuf::from);
    let user = || std::env::var_os("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("vila"));
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/vila"));
    own.or_else(user).or_else(home).map(|root| root.join("kernels"))
}

static COMPILER: OnceLock<std::result::Result<Nvrtc, String>> = OnceLock::new();
static MAJORS: OnceLock<&[u32]> = OnceLock::new();

/// Opens the compiler only in one of these major versions from now on: a driver loads machine code of its own age or older.
pub fn use_compiler_majors(majors: &'static [u32]) {
    MAJORS.get_or_init(|| majors);
}

/// The run-time compiler, opened once per process.
///
/// # Errors
/// As [`Nvrtc::open`].
pub fn compiler() -> Result<&'static Nvrtc> {
    compiler_in(&crate::libraries::directories())
}

/// As [`compiler`], from `directory` if it was not opened before.
///
/// # Errors
/// As [`Nvrtc::open`].
pub fn use_compiler_in(directory: &Path) -> Result<&'static Nvrtc> {
    compiler_in(&[directory.to_path_buf()])
}

fn compiler_in(directories: &[PathBuf]) -> Result<&'static Nvrtc> {
    let majors = MAJORS.get().copied().unwrap_or(&[13, 12]);
    let opened = COMPILER.get_or_init(|| Nvrtc::open_in(majors, directories).map_err(|error| error.to_string()));
    opened.as_ref().map_err(|message| Error::Unavailable(message.clone()))
}

/// Hash of everything that decides what a source compiles to, but the compiler's version.
pub fn source_hash(source: &Source, target: &Target) -> String {
    let kind = extension(target);
    let options = options(target).join(" ");
    let mut hash = Sha256::new();
    for part in [kind, &options, HEADER.1, &source.name, &source.text] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn extension(target: &Target) -> &'static str {
    if matches!(target, Target::Ptx(_)) { "ptx" } else { "cubin" }
}

/// That every kernel can be had for a target.
///
/// # Errors
/// As [`Nvrtc::open`], if there is no compiler and not all machine code is inside the program.
pub fn ready(target: &Target) -> Result<()> {
    let embedded = |source: &Source| matches!(find(EMBEDDED, source, target), Match::Code(_));
    if sources().iter().all(embedded) { Ok(()) } else { compiler().map(drop) }
}

/// Compiles a source for a target, or takes it from the program or the disk cache.
///
/// # Errors
/// No compiler; a source that does not compile.
pub fn compile(source: &Source, target: &Target) -> Result<Vec<u8>> {
    match find(EMBEDDED, source, target) {
        Match::Code(code) => return Ok(code.to_vec()),
        Match::Stale => {
            static WARNED: std::sync::Once = std::sync::Once::new();
            WARNED.call_once(|| {
                tracing::warn!(
                    "the machine code inside this program is of another version of kernels/{}.cu: it is compiled again",
                    source.name
                );
            });
        }
        Match::Absent => {}
    }
    compile_cached(source, target, extension(target), |compiled| compiled.code)
}

/// What the compiler says about a source, or said when it last compiled it.
///
/// # Errors
/// As [`compile`].
pub fn compiler_log(source: &Source, target: &Target) -> Result<String> {
    let log = compile_cached(source, target, "log", |compiled| compiled.log.into_bytes())?;
    Ok(String::from_utf8_lossy(&log).into_owned())
}

/// One part of a compilation, kept on disk under `extension`.
fn compile_cached(
    source: &Source,
    target: &Target,
    extension: &str,
    part: impl Fn(Compiled) -> Vec<u8>,
) -> Result<Vec<u8>> {
    let nvrtc = compiler()?;
    let (hash, (major, minor)) = (source_hash(source, target), nvrtc.version);
    let name = format!("{}-{major}.{minor}-{}.{extension}", source.name, &hash[..32]);
    let file = cache_directory().map(|directory| directory.join(name));
    if let Some(bytes) = file.as_ref().and_then(|file| read_checked(file)) {
        return Ok(bytes);
    }
    let bytes = part(nvrtc.compile(&source.name, &source.text, HEADER, target)?);
    if let Some(Err(error)) = file.map(|file| write_checked(&file, &bytes)) {
        tracing::warn!("compiled kernels are not kept: {error}");
    }
    Ok(bytes)
}

/// Compiles every source to machine code in `directory`, for the feature `embed-kernels`; returns the files.
///
/// # Errors
/// No compiler; a source that does not compile; a file that cannot be written.
pub fn build(architectures: &[String], directory: &Path) -> Result<Vec<PathBuf>> {
    let nvrtc = compiler()?;
    let write = |name: &str, bytes: &[u8]| -> Result<PathBuf> {
        let path = directory.join(name);
        let written = std::fs::create_dir_all(directory).and_then(|()| vila_files::write(&path, bytes));
        written.map_err(|source| Error::File { path: path.clone(), source }).map(|()| path)
    };
    let (mut files, mut list) = (Vec::new(), String::new());
    for source in sources() {
        for arch in architectures {
            let target = Target::Cubin(arch.clone());
            let code = nvrtc.compile(&source.name, &source.text, HEADER, &target)?.code;
            let file = format!("{}-{arch}.cubin", source.name);
            files.push(write(&file, &code)?);
            let hash = source_hash(&source, &target);
            let entry = Entry { source: source.name.clone(), arch: arch.clone(), hash, file };
            list.push_str(&format!("{entry}\n"));
        }
    }
    files.push(write(manifest::FILE, list.as_bytes())?);
    Ok(files)
}

/// The file's code if it is whole: a damaged cache is compiled again.
fn read_checked(file: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(file).ok()?;
    let (hash, code) = bytes.split_at_checked(32)?;
    (Sha256::digest(code).as_slice() == hash).then(|| code.to_vec())
}

fn write_checked(file: &Path, code: &[u8]) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default();
    vila_files::OwnFolder::create(directory)?.write(name, &[Sha256::digest(code).as_slice(), code].concat())
}

/// Kernels of one device, found by file and name.
pub(crate) struct Library {
    sources: HashMap<String, Source>,
    functions: Mutex<HashMap<String, Function>>,
}

impl Library {
    pub fn new(sources: Vec<Source>) -> Self {
        let sources = sources.into_iter().map(|source| (source.name.clone(), source)).collect();
        Library { sources, functions: Mutex::default() }
    }

    /// The kernel `kernel` of `file`, compiled and loaded at first use.
    pub fn function(&self, driver: &dyn Driver, file: &str, kernel: &str) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = functions.get(kernel) {
            return Ok(function);
        }
        let missing = || Error::NoKernel { module: file.into(), kernel: kernel.into() };
        let source = self.sources.get(file).ok_or_else(missing)?;
        let code = if driver.runs_kernels() { compile(source, &driver.target())? } else { Vec::new() };
        let function = driver.load(file, &code, kernel)?;
        functions.insert(kernel.to_string(), function);
        Ok(function)
    }
}
