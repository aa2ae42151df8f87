//! Matrix products by NVIDIA's cuBLASLt.
//!
//! The library is opened by full path and its functions are looked up in it: cudarc's own look-up tries `libcublasLt.so`
//! first, and knows no major version newer than the one it is built for, so it could call another library than the one
//! that fits the driver. Types and constants are cudarc's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys;
use libloading::Library;

use super::{Error, Matmul, Matrix, MatrixType, Result, Span};
use crate::libraries;

/// How many heuristics are asked for to find one without split-K.
const CANDIDATES: usize = 32;

type Algorithm = [u64; 8];
type Handle = *mut c_void;

/// `cublasLtMatmulHeuristicResult_t` with a plain number as status, since newer libraries have codes that cudarc does not.
#[repr(C)]
#[derive(Clone, Copy)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    status: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

const NO_HEURISTIC: Heuristic = Heuristic { algorithm: [0; 8], workspace: 0, status: 0, waves: 0.0, reserved: [0; 4] };

const _: () = assert!(size_of::<Heuristic>() == size_of::<sys::cublasLtMatmulHeuristicResult_t>());

libraries::api! {
    version = b"cublasLtGetVersion\0": fn() -> usize;
    status_name = b"cublasLtGetStatusString\0": fn(c_int) -> *const c_char;
    create = b"cublasLtCreate\0": fn(*mut Handle) -> c_int;
    destroy = b"cublasLtDestroy\0": fn(Handle) -> c_int;
    desc_create = b"cublasLtMatmulDescCreate\0": fn(*mut Handle, c_int, c_int) -> c_int;
    desc_destroy = b"cublasLtMatmulDescDestroy\0": fn(Handle) -> c_int;
    desc_set = b"cublasLtMatmulDescSetAttribute\0": fn(Handle, c_int, *const c_void, usize) -> c_int;
    layout_create = b"cublasLtMatrixLayoutCreate\0": fn(*mut Handle, c_int, u64, u64, i64) -> c_int;
    layout_destroy = b"cublasLtMatrixLayoutDestroy\0": fn(Handle) -> c_int;
    preference_create = b"cublasLtMatmulPreferenceCreate\0": fn(*mut Handle) -> c_int;
    preference_destroy = b"cublasLtMatmulPreferenceDestroy\0": fn(Handle) -> c_int;
    preference_set = b"cublasLtMatmulPreferenceSetAttribute\0": fn(Handle, c_int, *const c_void, usize) -> c_int;
    heuristics = b"cublasLtMatmulAlgoGetHeuristic\0": fn(
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Heuristic, *mut c_int,
    ) -> c_int;
    algorithm_get = b"cublasLtMatmulAlgoConfigGetAttribute\0": fn(
        *const Algorithm, c_int, *mut c_void, usize, *mut usize,
    ) -> c_int;
    algorithm_check = b"cublasLtMatmulAlgoCheck\0": fn(
        Handle, Handle, Handle, Handle, Handle, Handle, *const Algorithm, *mut Heuristic,
    ) -> c_int;
    multiply = b"cublasLtMatmul\0": fn(
        Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void, *const c_void, Handle,
        *mut c_void, Handle, *const Algorithm, *mut c_void, usize, *mut c_void,
    ) -> c_int;
}

impl Api {
    fn dotted_version(&self) -> String {
        // SAFETY: takes nothing and needs no handle.
        let version = unsafe { (self.version)() };
        // 12 counts 120805, 13 counts 130002.
        format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives a static string for any number.
        let text = unsafe { (self.status_name)(status) };
        // SAFETY: NUL-terminated if not null.
        let text = if text.is_null() { "unknown".into() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy() };
        Err(Error::Call { call, message: format!("{text} ({status})") })
    }
}

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    size: [usize; 3],
    types: [MatrixType; 3],
    transposed: [bool; 2],
    lds: [usize; 3],
    /// Bytes that each operand's address is a multiple of, up to 256.
    alignments: [u32; 3],
    bias: bool,
    workspace: usize,
    algorithm: Option<Algorithm>,
}

impl Key {
    fn of(matmul: &Matmul, workspace: usize) -> Self {
        let Matmul { m, n, k, a, b, c, .. } = *matmul;
        let alignment = |matrix: Matrix| 1 << matrix.span.ptr.0.trailing_zeros().min(8);
        Key {
            size: [m, n, k],
            types: [a.dtype, b.dtype, c.dtype],
            transposed: [a.transposed, b.transposed],
            lds: [a.ld, b.ld, c.ld],
            alignments: [alignment(a), alignment(b), alignment(c)],
            bias: matmul.bias.is_some(),
            workspace,
            algorithm: matmul.algorithm,
        }
    }
}

/// A handle of the library that goes with its owner.
struct Owned {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created by the library, which is kept longer, and destroyed nowhere else.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// Descriptors of one product.
struct Shape {
    operation: Owned,
    a: Owned,
    b: Owned,
    c: Owned,
}

struct Plan {
    shape: Shape,
    algorithm: Algorithm,
}

/// cuBLASLt with a handle in the context that was current when it was opened.
pub struct CublasLt {
    plans: Mutex<HashMap<Key, Plan>>,
    handle: Owned,
    api: Api,
    _library: Library,
}

// SAFETY: cuBLASLt's handle serves any number of threads; descriptors are used under the lock of `plans`.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// Where the library of one of these major versions is, and its version, without using a device.
    ///
    /// # Errors
    /// [`Error::Unavailable`] says what was looked for and where.
    pub fn find(majors: &[u32]) -> Result<(PathBuf, String)> {
        let (_library, api, path) = Self::library(majors)?;
        Ok((path, api.dotted_version()))
    }

    /// Version of the library.
    pub fn version(&self) -> String {
        self.api.dotted_version()
    }

    fn library(majors: &[u32]) -> Result<(Library, Api, PathBuf)> {
        let names: Vec<String> = majors.iter().map(|major| format!("libcublasLt.so.{major}")).collect();
        let directories = libraries::directories();
        let open = |path: &Path| -> std::result::Result<_, libloading::Error> {
            // SAFETY: opening the library runs only its own constructors.
            let library = unsafe { Library::new(path) }?;
            let api = Api::look_up(&library)?;
            Ok((library, api, libraries::file_of("libcublasLt.so.", path)))
        };
        libraries::first(&names, &directories, open).ok_or_else(|| {
            let cure = "install the CUDA toolkit or the Python package nvidia-cublas (nvidia-cublas-cu12 for CUDA 12), and \
                        set VILA_CUDA_LIBRARIES to the folder that holds it";
            libraries::missing(&names, "NVIDIA's matrix library", &directories, cure)
        })
    }

    /// Opens the library for the current context.
    pub(super) fn open(majors: &[u32]) -> Result<Self> {
        let (library, api, _) = Self::library(majors)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        api.check("cublasLtCreate", unsafe { (api.create)(&mut handle) })?;
        let handle = Owned { handle, destroy: api.destroy };
        Ok(CublasLt { plans: Mutex::default(), handle, api, _library: library })
    }

    /// Enqueues a product on a stream of the current context.
    pub(super) fn matmul(&self, stream: *mut c_void, matmul: &Matmul, workspace: Span) -> Result<()> {
        let key = Key::of(matmul, workspace.bytes);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let Plan { shape, algorithm } = match plans.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.plan(matmul, &key)?),
        };
        if let Some(bias) = matmul.bias {
            self.set_bias(shape, bias)?;
        }
        let address = |span: Span| span.ptr.0 as *mut c_void;
        let (alpha, beta) = (&raw const matmul.alpha, &raw const matmul.beta);
        let (a, b, c) = (address(matmul.a.span), address(matmul.b.span), address(matmul.c.span));
        // SAFETY: the descriptors are those of this product; alpha and beta are read before the call returns; the caller
        // keeps device memory until the stream has run.
        self.api.check("cublasLtMatmul", unsafe {
            (self.api.multiply)(
                self.handle.handle,
                shape.operation.handle,
                alpha.cast(),
                a,
                shape.a.handle,
                b,
                shape.b.handle,
                beta.cast(),
                c,
                shape.c.handle,
                c,
                shape.c.handle,
                algorithm,
                address(workspace),
                workspace.bytes,
                stream,
            )
        })
    }

    /// At most `most` algorithms without split-K, the library's favourite first.
    pub(super) fn algorithms(&self, matmul: &Matmul, workspace: usize, most: usize) -> Result<Vec<Algorithm>> {
        let shape = self.shape(matmul)?;
        let mut found = self.heuristics(&shape, &Key::of(matmul, workspace), most.max(CANDIDATES))?;
        found.truncate(most);
        Ok(found)
    }

    fn plan(&self, matmul: &Matmul, key: &Key) -> Result<Plan> {
        let shape = self.shape(matmul)?;
        let algorithm = match key.algorithm {
            Some(algorithm) => self.checked(&shape, algorithm, key.workspace)?,
            None => *self.heuristics(&shape, key, CANDIDATES)?.first().ok_or_else(|| Error::Call {
                call: "cublasLtMatmulAlgoGetHeuristic",
                message: format!("no algorithm without split-K for {key:?}"),
            })?,
        };
        Ok(Plan { shape, algorithm })
    }

    /// That a tuned algorithm computes this product on this device.
    fn checked(&self, shape: &Shape, algorithm: Algorithm, workspace: usize) -> Result<Algorithm> {
        let mut result = NO_HEURISTIC;
        // SAFETY: the descriptors live; writes one result.
        let status = unsafe {
            (self.api.algorithm_check)(
                self.handle.handle,
                shape.operation.handle,
                shape.a.handle,
                shape.b.handle,
                shape.c.handle,
                shape.c.handle,
                &algorithm,
                &mut result,
            )
        };
        if status != 0 || result.workspace > workspace {
            let message = "the tuned table's algorithm does not fit this device or library: tune again".to_string();
            return Err(Error::Call { call: "cublasLtMatmulAlgoCheck", message });
        }
        Ok(algorithm)
    }

    fn shape(&self, matmul: &Matmul) -> Result<Shape> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let Matmul { m, n, k, a, b, c, .. } = *matmul;
        let mut operation = std::ptr::null_mut();
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F as c_int;
        let scale = sys::cudaDataType::CUDA_R_32F as c_int;
        // SAFETY: writes one handle.
        let status = unsafe { (self.api.desc_create)(&mut operation, compute, scale) };
        self.api.check("cublasLtMatmulDescCreate", status)?;
        let operation = Owned { handle: operation, destroy: self.api.desc_destroy };
        let shape = Shape {
            operation,
            a: self.layout(a, if a.transposed { (k, m) } else { (m, k) })?,
            b: self.layout(b, if b.transposed { (n, k) } else { (k, n) })?,
            c: self.layout(c, (m, n))?,
        };
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        self.describe(&shape, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, c_int::from(a.transposed))?;
        self.describe(&shape, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, c_int::from(b.transposed))?;
        if let Some(bias) = matmul.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as c_int;
            self.describe(&shape, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
            self.describe(&shape, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(c.dtype))?;
            self.set_bias(&shape, bias)?;
        }
        Ok(shape)
    }

    fn layout(&self, matrix: Matrix, (rows, cols): (usize, usize)) -> Result<Owned> {
        let mut layout = std::ptr::null_mut();
        // SAFETY: writes one handle.
        self.api.check("cublasLtMatrixLayoutCreate", unsafe {
            (self.api.layout_create)(&mut layout, data_type(matrix.dtype), rows as u64, cols as u64, matrix.ld as i64)
        })?;
        Ok(Owned { handle: layout, destroy: self.api.layout_destroy })
    }

    fn describe<T>(&self, shape: &Shape, attribute: sys::cublasLtMatmulDescAttributes_t, value: T) -> Result<()> {
        let set = self.api.desc_set;
        // SAFETY: reads the value of its size before it returns.
        let status =
            unsafe { set(shape.operation.handle, attribute as c_int, (&raw const value).cast(), size_of::<T>()) };
        self.api.check("cublasLtMatmulDescSetAttribute", status)
    }

    fn set_bias(&self, shape: &Shape, bias: Span) -> Result<()> {
        self.describe(shape, sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.ptr.0)
    }

    /// Algorithms for a product, the library's favourite first, without those that split `k` across blocks.
    fn heuristics(&self, shape: &Shape, key: &Key, most: usize) -> Result<Vec<Algorithm>> {
        const NO_REDUCTION: u32 = 0;
        const ANY_REDUCTION: u32 = 7;
        match self.heuristics_within(shape, key, most, NO_REDUCTION) {
            Ok(found) if !found.is_empty() => Ok(found),
            // A library that knows no such wish: the algorithms say themselves whether they split.
            _ => self.heuristics_within(shape, key, most, ANY_REDUCTION),
        }
    }

    fn heuristics_within(&self, shape: &Shape, key: &Key, most: usize, reductions: u32) -> Result<Vec<Algorithm>> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let mut preference = std::ptr::null_mut();
        // SAFETY: writes one handle.
        self.api.check("cublasLtMatmulPreferenceCreate", unsafe { (self.api.preference_create)(&mut preference) })?;
        let preference = Owned { handle: preference, destroy: self.api.preference_destroy };
        let [a, b, c] = key.alignments;
        self.prefer(&preference, Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, key.workspace as u64)?;
        self.prefer(&preference, Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions)?;
        self.prefer(&preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a)?;
        self.prefer(&preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b)?;
        self.prefer(&preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c)?;
        self.prefer(&preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c)?;
        let mut results = vec![NO_HEURISTIC; most];
        let mut count = 0;
        // SAFETY: the descriptors live; writes at most `most` results.
        self.api.check("cublasLtMatmulAlgoGetHeuristic", unsafe {
            (self.api.heuristics)(
                self.handle.handle,
                shape.operation.handle,
                shape.a.handle,
                shape.b.handle,
                shape.c.handle,
                shape.c.handle,
                preference.handle,
                most as c_int,
                results.as_mut_ptr(),
                &mut count,
            )
        })?;
        results.truncate(count.unsigned_abs() as usize);
        let usable = |result: &Heuristic| result.status == 0 && result.workspace <= key.workspace;
        let whole =
            |result: &Heuristic| self.splits(&result.algorithm).map(|splits| (!splits).then_some(result.algorithm));
        results.iter().filter(|result| usable(result)).filter_map(|result| whole(result).transpose()).collect()
    }

    fn prefer<T>(
        &self,
        preference: &Owned,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: T,
    ) -> Result<()> {
        let set = self.api.preference_set;
        // SAFETY: reads the value of its size before it returns.
        let status = unsafe { set(preference.handle, attribute as c_int, (&raw const value).cast(), size_of::<T>()) };
        self.api.check("cublasLtMatmulPreferenceSetAttribute", status)
    }

    /// Whether an algorithm adds up parts of `k` from several blocks.
    fn splits(&self, algorithm: &Algorithm) -> Result<bool> {
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Config;
        let read = |attribute: Config| -> Result<u32> {
            let (mut value, mut written) = (0u32, 0usize);
            // SAFETY: writes at most four bytes and their number.
            self.api.check("cublasLtMatmulAlgoConfigGetAttribute", unsafe {
                (self.api.algorithm_get)(algorithm, attribute as c_int, (&raw mut value).cast(), 4, &mut written)
            })?;
            Ok(value)
        };
        // Signed in the header; 1 is no split, and so is 0 on some versions.
        let parts = read(Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM)? as i32;
        Ok(!(0..=1).contains(&parts) || read(Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)? != 0)
    }
}

fn data_type(dtype: MatrixType) -> c_int {
    match dtype {
        MatrixType::F32 => sys::cudaDataType::CUDA_R_32F as c_int,
        MatrixType::Bf16 => sys::cudaDataType::CUDA_R_16BF as c_int,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DevicePtr;

    #[test]
    fn alignment_is_part_of_the_key() {
        let matrix = |ptr| Matrix {
            span: Span { ptr: DevicePtr(ptr), bytes: 64 },
            dtype: MatrixType::Bf16,
            ld: 8,
            transposed: false,
        };
        let matmul = |ptr| Matmul {
            m: 8,
            n: 4,
            k: 2,
            a: matrix(ptr),
            b: matrix(0x1000),
            c: matrix(0x2000),
            alpha: 1.0,
            beta: 0.0,
            bias: None,
            workspace: None,
            algorithm: None,
        };
        assert_eq!(Key::of(&matmul(0x7000), 0), Key::of(&matmul(0x9000), 0));
        assert_eq!(Key::of(&matmul(0x7010), 0).alignments, [16, 256, 256]);
    }
}
