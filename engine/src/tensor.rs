use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use half::{bf16, f16};

use crate::dtype::bf16_from_f64;
use crate::storage::Line;
use crate::{DType, Element, Error, MappedBytes, Result, Storage};

/// A view of `rows` rows of `cols` elements; consecutive rows start `ld` elements apart.
///
/// Cloning is cheap: clones and views share storage.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    dtype: DType,
    offset: usize,
    rows: usize,
    cols: usize,
    ld: usize,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} [{}, {}], ld {})", self.dtype, self.rows, self.cols, self.ld)
    }
}

/// Size of a contiguous tensor.
///
/// # Errors
/// [`Error::Argument`] if it exceeds the address space.
pub fn bytes(dtype: DType, rows: usize, cols: usize) -> Result<usize> {
    let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size())).filter(|&n| n <= isize::MAX as usize);
    bytes.ok_or_else(|| Error::Argument { op: "alloc", message: format!("[{rows}, {cols}] exceeds the address space") })
}

impl Tensor {
    /// A tensor over memory that stays where it is and is only read; nothing unless the bytes are `rows * cols` elements at
    /// an address that suits them, in an order that this machine reads.
    pub fn mapped(bytes: MappedBytes, dtype: DType, rows: usize, cols: usize) -> Option<Self> {
        let memory = bytes.bytes();
        let fits = self::bytes(dtype, rows, cols).is_ok_and(|size| size == memory.len());
        let aligned = (memory.as_ptr() as usize).is_multiple_of(dtype.size());
        let readable = fits && aligned && cfg!(target_endian = "little");
        readable.then(|| Self::from_storage(Arc::new(Storage::Mapped(bytes)), dtype, rows, cols))
    }

    /// A contiguous tensor at the start of `storage`, for backends; the storage must hold `rows * cols` elements.
    pub fn from_storage(storage: Arc<Storage>, dtype: DType, rows: usize, cols: usize) -> Self {
        Tensor { storage, dtype, offset: 0, rows, cols, ld: cols }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements between the starts of two consecutive rows.
    pub fn ld(&self) -> usize {
        self.ld
    }

    /// Offset of the first element in its storage, in elements.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The memory behind the view.
    pub fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// Whether rows follow one another without gaps.
    pub fn is_contiguous(&self) -> bool {
        self.ld == self.cols || self.rows <= 1
    }

    /// The rows `range` as a view.
    pub fn slice_rows(&self, range: Range<usize>) -> Result<Tensor> {
        if range.start > range.end || range.end > self.rows {
            return Err(self.view_error(format!("rows {range:?}")));
        }
        Ok(Tensor { offset: self.offset + range.start * self.ld, rows: range.len(), ..self.clone() })
    }

    /// The columns `range` as a view.
    pub fn slice_cols(&self, range: Range<usize>) -> Result<Tensor> {
        if range.start > range.end || range.end > self.cols {
            return Err(self.view_error(format!("columns {range:?}")));
        }
        Ok(Tensor { offset: self.offset + range.start, cols: range.len(), ..self.clone() })
    }

    /// The same elements in another shape; only for contiguous tensors.
    pub fn reshape(&self, rows: usize, cols: usize) -> Result<Tensor> {
        if !self.is_contiguous() || rows * cols != self.len() {
            return Err(self.view_error(format!("reshape to [{rows}, {cols}]")));
        }
        Ok(Tensor { rows, cols, ld: cols, ..self.clone() })
    }

    fn view_error(&self, what: String) -> Error {
        Error::View { what, rows: self.rows, cols: self.cols, ld: self.ld }
    }

    /// Bytes from the start of the storage to the first element, and from there to the end of the last.
    pub fn byte_range(&self) -> Range<usize> {
        let len = if self.is_empty() { 0 } else { (self.rows - 1) * self.ld + self.cols };
        self.offset * self.dtype.size()..(self.offset + len) * self.dtype.size()
    }

    fn window<T: Element>(&self) -> Result<Window> {
        if T::DTYPE != self.dtype {
            return Err(Error::DType { op: "access", what: "tensor", expected: "the accessed type", got: self.dtype });
        }
        let len = if self.rows == 0 { 0 } else { (self.rows - 1) * self.ld + self.cols };
        Ok(Window { offset: self.offset, len, rows: self.rows, cols: self.cols, ld: self.ld })
    }

    /// Borrows a host tensor for reading.
    ///
    /// # Errors
    /// [`Error::Aliased`] while it is borrowed for writing; wrong element type; another device's memory.
    pub fn read<T: Element>(&self) -> Result<Read<'_, T>> {
        let memory = match &*self.storage {
            Storage::Mapped(mapped) => Memory::Mapped(mapped.bytes()),
            Storage::Device(_) => return Err(Error::ForeignDevice("cpu")),
            Storage::Host(host) => Memory::Host(match host.lines.try_read() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Err(Error::Aliased),
            }),
        };
        Ok(Read { memory, window: self.window::<T>()?, element: PhantomData })
    }

    /// Borrows a host tensor for writing, alone.
    ///
    /// # Errors
    /// [`Error::Aliased`] while any view of the same storage is borrowed; [`Error::ReadOnly`] for mapped memory; wrong
    /// element type; another device's memory.
    pub fn write<T: Element>(&self) -> Result<Write<'_, T>> {
        let host = match &*self.storage {
            Storage::Host(host) => host,
            Storage::Mapped(_) => return Err(Error::ReadOnly),
            Storage::Device(_) => return Err(Error::ForeignDevice("cpu")),
        };
        let guard = match host.lines.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::Aliased),
        };
        Ok(Write { guard, window: self.window::<T>()?, element: PhantomData })
    }

    /// Elements of a host tensor in row order.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let view = self.read::<T>()?;
        Ok((0..self.rows).flat_map(|row| view.row(row).iter().copied()).collect())
    }

    /// Elements of a host float tensor as f32, in row order.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        Ok(match self.dtype {
            DType::F32 => self.to_vec::<f32>()?,
            DType::BF16 => self.to_vec::<bf16>()?.into_iter().map(bf16::to_f32).collect(),
            DType::F16 => self.to_vec::<f16>()?.into_iter().map(f16::to_f32).collect(),
            _ => self.to_f64()?.into_iter().map(|x| x as f32).collect(),
        })
    }

    /// Elements of a host float tensor as f64, in row order.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        Ok(match self.dtype {
            DType::F64 => self.to_vec::<f64>()?,
            DType::F32 => self.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
            DType::BF16 => self.to_vec::<bf16>()?.into_iter().map(bf16::to_f64).collect(),
            DType::F16 => self.to_vec::<f16>()?.into_iter().map(f16::to_f64).collect(),
            got => return Err(Error::DType { op: "to_f64", what: "tensor", expected: "a float type", got }),
        })
    }

    /// Overwrites a host float tensor with values in row order, rounded to its type.
    pub fn set_f64(&self, values: &[f64]) -> Result<()> {
        match self.dtype {
            DType::F64 => self.set_with(values, |x| x),
            DType::F32 => self.set_with(values, |x| x as f32),
            DType::BF16 => self.set_with(values, bf16_from_f64),
            got => Err(Error::DType { op: "set_f64", what: "tensor", expected: "a float type", got }),
        }
    }

    /// Overwrites a host float tensor with values in row order, rounded to its type.
    pub fn set_f32(&self, values: &[f32]) -> Result<()> {
        match self.dtype {
            DType::F64 => self.set_with(values, f64::from),
            DType::F32 => self.set_with(values, |x| x),
            DType::BF16 => self.set_with(values, bf16::from_f32),
            got => Err(Error::DType { op: "set_f32", what: "tensor", expected: "a float type", got }),
        }
    }

    /// Overwrites a host tensor with values of its own type, in row order.
    pub fn set<T: Element>(&self, values: &[T]) -> Result<()> {
        self.set_with(values, |x| x)
    }

    fn set_with<S: Copy, T: Element>(&self, values: &[S], convert: impl Fn(S) -> T) -> Result<()> {
        if values.len() != self.len() {
            let got = (values.len(), 1);
            return Err(Error::Shape { op: "set", what: "values", expected: self.shape(), got });
        }
        let mut view = self.write::<T>()?;
        for (row, values) in values.chunks(self.cols.max(1)).enumerate() {
            for (target, &value) in view.row_mut(row).iter_mut().zip(values) {
                *target = convert(value);
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Window {
    offset: usize,
    len: usize,
    rows: usize,
    cols: usize,
    ld: usize,
}

enum Memory<'a> {
    Host(RwLockReadGuard<'a, Vec<Line>>),
    Mapped(&'a [u8]),
}

/// A host tensor borrowed for reading.
pub struct Read<'a, T> {
    memory: Memory<'a>,
    window: Window,
    element: PhantomData<T>,
}

impl<T: Element> Read<'_, T> {
    /// All elements of the storage.
    fn elements(&self) -> &[T] {
        match &self.memory {
            Memory::Host(guard) => bytemuck::cast_slice(guard),
            Memory::Mapped(bytes) => bytemuck::cast_slice(bytes),
        }
    }

    /// From the first element to the last, gaps between rows included.
    pub fn slice(&self) -> &[T] {
        &self.elements()[self.window.offset..self.window.offset + self.window.len]
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[T] {
        let start = self.window.offset + row * self.window.ld;
        &self.elements()[start..start + self.window.cols]
    }

    /// Rows in order.
    pub fn iter_rows(&self) -> impl Iterator<Item = &[T]> {
        (0..self.window.rows).map(|row| self.row(row))
    }
}

/// A host tensor borrowed for writing.
pub struct Write<'a, T> {
    guard: RwLockWriteGuard<'a, Vec<Line>>,
    window: Window,
    element: PhantomData<T>,
}

impl<T: Element> Write<'_, T> {
    /// From the first element to the last, gaps between rows included.
    pub fn slice_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.guard)[self.window.offset..self.window.offset + self.window.len]
    }

    /// Rows in order.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        let (cols, rows, ld) = (self.window.cols, self.window.rows, self.window.ld.max(1));
        self.slice_mut().chunks_mut(ld).take(rows).map(move |row| &mut row[..cols])
    }

    /// One row.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        let start = self.window.offset + row * self.window.ld;
        &mut bytemuck::cast_slice_mut(&mut self.guard)[start..start + self.window.cols]
    }
}
