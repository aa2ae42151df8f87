//! NVIDIA's run-time compiler, opened by name: CUDA C++ to PTX or to machine code.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::driver::{Error, Result, Target};
use crate::libraries;

type Program = *mut c_void;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

/// The compiler library.
pub struct Nvrtc {
    library: Library,
    /// Kept open: the compiler looks it up by name.
    _builtins: Option<Library>,
    /// Where it was found.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: (i32, i32),
}

/// What a compilation gave.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// PTX text without its final NUL, or a cubin.
    pub code: Vec<u8>,
    /// What the compiler and ptxas said.
    pub log: String,
}

impl Nvrtc {
    /// Opens the compiler of one of these major versions, in order of preference.
    ///
    /// # Errors
    /// [`Error::Unavailable`] says what was looked for and where.
    pub fn open(majors: &[u32]) -> Result<Self> {
        Self::open_in(majors, &libraries::directories())
    }

    /// As [`Nvrtc::open`], looking into `directories` before the system's own search.
    ///
    /// # Errors
    /// As [`Nvrtc::open`].
    pub fn open_in(majors: &[u32], directories: &[PathBuf]) -> Result<Self> {
        let names: Vec<String> = majors.iter().map(|major| format!("libnvrtc.so.{major}")).collect();
        libraries::first(&names, directories, Self::open_at).ok_or_else(|| {
            let cure = "install the CUDA toolkit or the Python package nvidia-cuda-nvrtc, and set VILA_CUDA_LIBRARIES to the \
                        folder that holds it";
            libraries::missing(&names, "NVIDIA's run-time compiler", directories, cure)
        })
    }

    fn open_at(path: &Path) -> std::result::Result<Self, libloading::Error> {
        // SAFETY: opening NVRTC and its builtins runs only their own constructors.
        let open = |path: &Path| unsafe { Library::new(path) };
        let builtins = path.parent().and_then(builtins_beside).and_then(|path| open(&path).ok());
        let library = open(path)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is that of nvrtc.h.
        unsafe { library.get::<Version>(b"nvrtcVersion\0")?(&mut major, &mut minor) };
        let path = libraries::file_of("libnvrtc.so.", path);
        Ok(Nvrtc { library, _builtins: builtins, path, version: (major, minor) })
    }

    /// Compiles `source`, named `name` in messages, with the only header that it may include.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's log.
    pub fn compile(&self, name: &str, source: &str, header: (&str, &str), target: &Target) -> Result<Compiled> {
        let fail = |log: String| Error::Compile { file: name.into(), target: target.arch().into(), log };
        let c = |text: &str| CString::new(text).map_err(|_| fail("the source holds a NUL".into()));
        let options: Vec<CString> = options(target).iter().map(|option| c(option)).collect::<Result<_>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let (source, file) = (c(source)?, c(&format!("{name}.cu"))?);
        let (header_name, header_text) = (c(header.0)?, c(header.1)?);
        let (headers, names) = ([header_text.as_ptr()], [header_name.as_ptr()]);
        let missing = |error: libloading::Error| Error::Unavailable(format!("{}: {error}", self.path.display()));
        let (size, code) = match target {
            Target::Ptx(_) => (&b"nvrtcGetPTXSize\0"[..], &b"nvrtcGetPTX\0"[..]),
            Target::Cubin(_) => (&b"nvrtcGetCUBINSize\0"[..], &b"nvrtcGetCUBIN\0"[..]),
        };
        // SAFETY: the signatures are those of nvrtc.h; all pointers live until the program is destroyed, and the buffers
        // have the sizes that NVRTC asks for.
        unsafe {
            let create = self.library.get::<Create>(b"nvrtcCreateProgram\0").map_err(missing)?;
            let compile = self.library.get::<Compile>(b"nvrtcCompileProgram\0").map_err(missing)?;
            let destroy = self.library.get::<Destroy>(b"nvrtcDestroyProgram\0").map_err(missing)?;
            let bytes = |program: Program, size: &[u8], bytes: &[u8]| -> Result<Vec<u8>> {
                let size = self.library.get::<Size>(size).map_err(missing)?;
                let bytes = self.library.get::<Bytes>(bytes).map_err(missing)?;
                let mut length = 0;
                size(program, &mut length);
                let mut buffer = vec![0u8; length.max(1)];
                bytes(program, buffer.as_mut_ptr().cast());
                Ok(buffer)
            };
            let mut program: Program = std::ptr::null_mut();
            if create(&mut program, source.as_ptr(), file.as_ptr(), 1, headers.as_ptr(), names.as_ptr()) != 0 {
                return Err(fail("nvrtcCreateProgram failed".into()));
            }
            let status = compile(program, options.len() as c_int, options.as_ptr());
            let log = bytes(program, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0");
            let result = if status == 0 { Some(bytes(program, size, code)) } else { None };
            destroy(&mut program);
            let log =
                CStr::from_bytes_until_nul(&log?).map(|log| log.to_string_lossy().into_owned()).unwrap_or_default();
            let mut code = result.ok_or_else(|| fail(log.clone()))??;
            if matches!(target, Target::Ptx(_)) {
                code.truncate(code.iter().position(|&byte| byte == 0).unwrap_or(code.len()));
            }
            Ok(Compiled { code, log })
        }
    }
}

/// Every option of a compilation; part of the cache's key.
pub(crate) fn options(target: &Target) -> Vec<String> {
    let mut options =
        vec![format!("--gpu-architecture={}", target.arch()), "--std=c++17".into(), "-default-device".into()];
    options.push("--generate-line-info".into());
    if matches!(target, Target::Cubin(_)) {
        options.extend(["--ptxas-options=-v".into(), "--ptxas-options=--warn-on-spills".into()]);
    }
    options
}

fn builtins_beside(directory: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc-builtins.so.")))
        .collect();
    found.sort();
    found.into_iter().next()
}
