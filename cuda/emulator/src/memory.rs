//! Device memory: allocations with exact bounds, shared by launches.

use crate::error::MemoryError;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

/// Bytes of unmapped addresses behind every allocation, at least.
const GUARD: u64 = 1 << 20;
/// Alignment of an allocation's first byte.
const ALIGN: u64 = 512;
/// What fresh memory holds: a NaN in f32, f16 and bf16, and a huge index.
const POISON: u32 = 0x7fff_7fff;

/// One allocation. Bytes are kept in atomic words, so that a kernel that races is wrong but not undefined.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub len: u64,
    pub name: Option<String>,
    pub read_only: bool,
    pub freed: AtomicBool,
    words: Box<[AtomicU32]>,
}

impl Allocation {
    pub(crate) fn new(base: u64, len: u64, name: Option<String>, read_only: bool, fill: u32) -> Self {
        let n = len.div_ceil(4) as usize;
        let words = (0..n).map(|_| AtomicU32::new(fill)).collect();
        Self { base, len, name, read_only, freed: AtomicBool::new(false), words }
    }

    /// Offset of an access that lies inside.
    #[inline(always)]
    pub(crate) fn offset(&self, address: u64, bytes: u64) -> Option<usize> {
        let at = address.wrapping_sub(self.base);
        if at < self.len && bytes <= self.len - at { Some(at as usize) } else { None }
    }

    #[inline(always)]
    pub(crate) fn word(&self, index: usize) -> u32 {
        self.words.get(index).map_or(0, |w| w.load(Relaxed))
    }

    /// Reads 1, 2, 4 or 8 bytes at an offset that is aligned to them.
    #[inline(always)]
    pub(crate) fn load(&self, at: usize, bytes: u32) -> u64 {
        match bytes {
            4 => u64::from(self.word(at / 4)),
            8 => u64::from(self.word(at / 4)) | u64::from(self.word(at / 4 + 1)) << 32,
            2 => u64::from(self.word(at / 4) >> (8 * (at & 2)) & 0xffff),
            _ => u64::from(self.word(at / 4) >> (8 * (at & 3)) & 0xff),
        }
    }

    #[inline(always)]
    pub(crate) fn store(&self, at: usize, bytes: u32, v: u64) {
        match bytes {
            4 => self.set(at / 4, v as u32, !0),
            8 => {
                self.set(at / 4, v as u32, !0);
                self.set(at / 4 + 1, (v >> 32) as u32, !0);
            }
            2 => self.set(at / 4, (v as u32) << (8 * (at & 2)), 0xffff << (8 * (at & 2))),
            _ => self.set(at / 4, (v as u32) << (8 * (at & 3)), 0xff << (8 * (at & 3))),
        }
    }

    #[inline(always)]
    fn set(&self, index: usize, v: u32, mask: u32) {
        if let Some(w) = self.words.get(index) {
            if mask == !0 {
                w.store(v, Relaxed);
            } else {
                // A neighbour's bytes in the same word may be written by another block at the same time.
                let _ = w.fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | v & mask));
            }
        }
    }

    pub(crate) fn read(&self, at: usize, out: &mut [u8]) {
        for (i, b) in out.iter_mut().enumerate() {
            *b = (self.word((at + i) / 4) >> (8 * ((at + i) & 3))) as u8;
        }
    }

    pub(crate) fn write(&self, at: usize, data: &[u8]) {
        let mut i = 0;
        while i < data.len() {
            if (at + i) & 3 == 0
                && let Some(w) = data.get(i..i + 4)
            {
                self.set((at + i) / 4, u32::from_le_bytes([w[0], w[1], w[2], w[3]]), !0);
                i += 4;
                continue;
            }
            self.store(at + i, 1, u64::from(data[i]));
            i += 1;
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    /// Sorted by address.
    live: Vec<Arc<Allocation>>,
    freed: Vec<(u64, u64)>,
    next: u64,
    bytes: u64,
}

/// Memory of a device.
///
/// Addresses are 64-bit numbers as on a GPU; each allocation has exact bounds and unmapped space behind it. Fresh memory
/// holds NaNs. All methods take `&self`: memory may be shared between launches and threads.
///
/// ```
/// let memory = ptx_emulator::Memory::new();
/// let x = memory.alloc(12)?;
/// memory.write(x, &[1, 2, 3])?;
/// assert_eq!(memory.read_vec(x, 3)?, [1, 2, 3]);
/// assert!(memory.read_vec(x, 13).is_err());
/// # Ok::<(), ptx_emulator::MemoryError>(())
/// ```
#[derive(Debug)]
pub struct Memory {
    table: RwLock<Table>,
    limit: u64,
}

/// Every memory has addresses of its own, so that a pointer into another one is never valid by chance.
static NEXT_BASE: AtomicU64 = AtomicU64::new(0x7000_0000_0000);
static MODULE_BASE: Mutex<u64> = Mutex::new(0x6000_0000_0000);

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes addresses for a module's variables.
pub(crate) fn module_address(len: u64, align: u64) -> u64 {
    let mut next = MODULE_BASE.lock().unwrap_or_else(|e| e.into_inner());
    let at = next.next_multiple_of(align.clamp(ALIGN, 1 << 20));
    *next = at + len + GUARD;
    at
}

impl Memory {
    /// An empty memory without a limit.
    pub fn new() -> Self {
        Self::with_limit(u64::MAX)
    }

    /// An empty memory that refuses to hold more than so many bytes at once.
    pub fn with_limit(limit: u64) -> Self {
        // 16 GiB of addresses apart; a memory that outgrows that only loses this courtesy.
        let next = NEXT_BASE.fetch_add(1 << 34, Relaxed);
        Self { table: RwLock::new(Table { next, ..Table::default() }), limit }
    }

    fn read_table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write_table(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(|e| e.into_inner())
    }

    /// Allocates; the address is a multiple of 512.
    pub fn alloc(&self, bytes: usize) -> Result<u64, MemoryError> {
        let len = bytes as u64;
        let mut t = self.write_table();
        if t.bytes.saturating_add(len) > self.limit {
            return Err(MemoryError::OutOfMemory { requested: len, used: t.bytes, limit: self.limit });
        }
        let base = t.next.next_multiple_of(ALIGN);
        t.next = base + len + GUARD.max(len);
        t.bytes += len;
        t.live.push(Arc::new(Allocation::new(base, len, None, false, POISON)));
        Ok(base)
    }

    /// Allocates and writes.
    pub fn alloc_from(&self, data: &[u8]) -> Result<u64, MemoryError> {
        let address = self.alloc(data.len())?;
        self.write(address, data)?;
        Ok(address)
    }

    /// Frees an allocation by its first address.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut t = self.write_table();
        let Some(i) = t.live.iter().position(|a| a.base == address && a.name.is_none()) else {
            let freed = t.freed.iter().any(|f| f.0 == address);
            return Err(if freed {
                MemoryError::DoubleFree { address }
            } else {
                MemoryError::NotAllocated { address }
            });
        };
        let a = t.live.remove(i);
        a.freed.store(true, Relaxed);
        t.bytes -= a.len;
        t.freed.push((a.base, a.len));
        Ok(())
    }

    fn find(&self, address: u64, bytes: usize) -> Result<(Arc<Allocation>, usize), MemoryError> {
        let t = self.read_table();
        if let Some(a) = t.live.iter().find(|a| address.wrapping_sub(a.base) < a.len.max(1)) {
            return match a.offset(address, bytes as u64) {
                Some(at) => Ok((a.clone(), at)),
                None if bytes == 0 => Ok((a.clone(), 0)),
                None => Err(MemoryError::OutOfBounds { address, bytes: bytes as u64, base: a.base, len: a.len }),
            };
        }
        if t.freed.iter().any(|f| address.wrapping_sub(f.0) < f.1) {
            return Err(MemoryError::Freed { address });
        }
        Err(MemoryError::NotAllocated { address })
    }

    /// Copies out of device memory.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let (a, at) = self.find(address, out.len())?;
        a.read(at, out);
        Ok(())
    }

    /// Copies out of device memory into a new vector.
    pub fn read_vec(&self, address: u64, bytes: usize) -> Result<Vec<u8>, MemoryError> {
        let (a, at) = self.find(address, bytes)?;
        let mut out = vec![0; bytes];
        a.read(at, &mut out);
        Ok(out)
    }

    /// Copies into device memory.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (a, at) = self.find(address, data.len())?;
        a.write(at, data);
        Ok(())
    }

    /// Fills device memory with a byte.
    pub fn fill(&self, address: u64, byte: u8, bytes: usize) -> Result<(), MemoryError> {
        let (a, at) = self.find(address, bytes)?;
        a.write(at, &vec![byte; bytes]);
        Ok(())
    }

    /// Copies inside device memory; the ranges may overlap.
    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), MemoryError> {
        let data = self.read_vec(from, bytes)?;
        self.write(to, &data)
    }

    /// Start and length of the live allocation that holds an address.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.find(address, 1).ok().map(|(a, _)| (a.base, a.len))
    }

    /// Bytes and number of live allocations.
    pub fn usage(&self) -> (u64, usize) {
        let t = self.read_table();
        (t.bytes, t.live.len())
    }

    pub(crate) fn attach(&self, extra: &[Arc<Allocation>]) {
        let mut t = self.write_table();
        for a in extra {
            if !t.live.iter().any(|b| Arc::ptr_eq(a, b)) {
                t.live.push(a.clone());
            }
        }
    }

    pub(crate) fn snapshot(&self, extra: &[Arc<Allocation>]) -> Mapping {
        let t = self.read_table();
        let mut live = t.live.clone();
        for a in extra {
            if !live.iter().any(|b| Arc::ptr_eq(a, b)) {
                live.push(a.clone());
            }
        }
        live.sort_by_key(|a| a.base);
        Mapping { live, freed: t.freed.clone() }
    }
}

/// The allocations that a launch sees.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    pub live: Vec<Arc<Allocation>>,
    pub freed: Vec<(u64, u64)>,
}

impl Mapping {
    /// Index of the allocation that starts at or before an address.
    pub(crate) fn find(&self, address: u64) -> Option<usize> {
        self.live.partition_point(|a| a.base <= address).checked_sub(1)
    }
}
