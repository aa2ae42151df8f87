//! Finds NVRTC, and small helpers for tests, examples and benchmarks.
#![allow(dead_code)]

mod fetch;

pub use fetch::VERSION;
use fetch::{fetch, workspace};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const LIBRARY: &str = "libnvrtc.so.13";
const BUILTINS: &str = "libnvrtc-builtins.so.13.0";

/// The compiler library.
pub struct Nvrtc {
    library: Library,
    /// Kept open: the compiler looks it up by name.
    _builtins: Library,
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Some(p) = std::env::var_os("PTX_EMULATOR_NVRTC") {
        let p = PathBuf::from(p);
        dirs.push(if p.is_dir() { p } else { p.parent().map(Path::to_path_buf).unwrap_or_default() });
    }
    if let Some(p) = std::env::var_os("LD_LIBRARY_PATH") {
        dirs.extend(std::env::split_paths(&p));
    }
    dirs.push(workspace().join("target/nvrtc/nvidia/cu13/lib"));
    dirs
}

fn open() -> Result<Nvrtc, String> {
    let find = || candidates().into_iter().find(|d| d.join(LIBRARY).exists() && d.join(BUILTINS).exists());
    let dir = match find() {
        Some(d) => d,
        None => {
            fetch()?;
            find().ok_or("the wheel holds no NVRTC")?
        }
    };
    // SAFETY: opening NVRTC runs only its own constructors.
    let load = |name: &str| unsafe { Library::new(dir.join(name)) }.map_err(|e| e.to_string());
    Ok(Nvrtc { _builtins: load(BUILTINS)?, library: load(LIBRARY)? })
}

/// NVRTC, or `None` after saying loudly that tests are skipped. With `CI=true` that is a failure.
pub fn nvrtc() -> Option<&'static Nvrtc> {
    static NVRTC: OnceLock<Result<Nvrtc, String>> = OnceLock::new();
    match NVRTC.get_or_init(open) {
        Ok(n) => Some(n),
        Err(e) => {
            let text = format!(
                "SKIPPED: NVRTC {VERSION} is not here ({e}).\n  To get it: python3 -m pip download --no-deps nvidia-cuda-nvrtc=={VERSION}, \
                 unzip it into target/nvrtc, or set PTX_EMULATOR_NVRTC to the directory with {LIBRARY}."
            );
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
            eprintln!("{text}");
            None
        }
    }
}

impl Nvrtc {
    /// Compiles CUDA C++ to PTX for an architecture such as `compute_80`.
    pub fn compile(&self, name: &str, source: &str, arch: &str, options: &[&str]) -> Result<String, String> {
        let arch = format!("--gpu-architecture={arch}");
        let mut all = vec![arch.as_str(), "--std=c++17", "-default-device", "--generate-line-info"];
        all.extend_from_slice(options);
        let c = |s: &str| CString::new(s).map_err(|e| e.to_string());
        let options: Vec<CString> = all.iter().map(|s| c(s)).collect::<Result<_, _>>()?;
        let option_pointers: Vec<*const c_char> = options.iter().map(|s| s.as_ptr()).collect();
        let (source, name) = (c(source)?, c(name)?);
        let header = c(include_str!("../kernels/device.h"))?;
        let header_name = c("device.h")?;
        type Program = *mut c_void;
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
        type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        // SAFETY: the signatures are those of nvrtc.h; all pointers live until the program is destroyed, and the buffers
        // have the sizes that NVRTC asks for.
        unsafe {
            let get = |e: libloading::Error| e.to_string();
            let create = self.library.get::<Create>(b"nvrtcCreateProgram\0").map_err(get)?;
            let compile = self.library.get::<Compile>(b"nvrtcCompileProgram\0").map_err(get)?;
            let destroy = self.library.get::<Destroy>(b"nvrtcDestroyProgram\0").map_err(get)?;
            let text = |p: Program, size: &[u8], text: &[u8]| -> Result<String, String> {
                let size = self.library.get::<Size>(size).map_err(get)?;
                let text = self.library.get::<Text>(text).map_err(get)?;
                let mut n = 0;
                size(p, &mut n);
                let mut buffer = vec![0u8; n.max(1)];
                text(p, buffer.as_mut_ptr().cast());
                Ok(CStr::from_bytes_until_nul(&buffer).map_err(|e| e.to_string())?.to_string_lossy().into_owned())
            };
            let mut p: Program = std::ptr::null_mut();
            let (headers, names) = ([header.as_ptr()], [header_name.as_ptr()]);
            if create(&mut p, source.as_ptr(), name.as_ptr(), 1, headers.as_ptr(), names.as_ptr()) != 0 {
                return Err("nvrtcCreateProgram failed".into());
            }
            let code = compile(p, option_pointers.len() as c_int, option_pointers.as_ptr());
            let result = if code == 0 {
                text(p, b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0")
            } else {
                Err(text(p, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0")?)
            };
            destroy(&mut p);
            result
        }
    }

    /// Compiles one of `tests/kernels`.
    pub fn kernel(&self, name: &str, arch: &str, defines: &[&str]) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels").join(name);
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let defines: Vec<String> = defines.iter().map(|d| format!("-D{d}")).collect();
        let options: Vec<&str> = defines.iter().map(String::as_str).collect();
        self.compile(name, &source, arch, &options).unwrap_or_else(|e| panic!("{name} for {arch}: {e}"))
    }
}

/// Repeatable pseudo-random numbers.
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// Uniform in [-1.5, 1.5).
    pub fn real(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / 16_777_216.0 - 0.5) * 3.0
    }

    pub fn bf16(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| bf16(self.real())).collect()
    }
}

pub fn bf16(x: f32) -> u16 {
    let u = x.to_bits();
    if x.is_nan() { 0x7fff } else { ((u + 0x7fff + (u >> 16 & 1)) >> 16) as u16 }
}

pub fn from_bf16(x: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(x) << 16))
}

pub fn bytes<T: Copy, const N: usize>(v: &[T], f: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    v.iter().flat_map(|x| f(*x)).collect()
}

pub fn bytes16(v: &[u16]) -> Vec<u8> {
    bytes(v, u16::to_le_bytes)
}

pub fn bytes32(v: &[u32]) -> Vec<u8> {
    bytes(v, u32::to_le_bytes)
}

pub fn bytes_f32(v: &[f32]) -> Vec<u8> {
    bytes(v, f32::to_le_bytes)
}

pub fn words16(v: &[u8]) -> Vec<u16> {
    v.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
}

pub fn words32(v: &[u8]) -> Vec<u32> {
    v.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub fn floats(v: &[u8]) -> Vec<f32> {
    words32(v).into_iter().map(f32::from_bits).collect()
}
