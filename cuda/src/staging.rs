//! Page-locked buffers through which host bytes reach the device without waiting for it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::driver::{Driver, Event, HostPtr, Result, Span, Stream};

/// Largest single copy.
const PIECE: usize = 16 << 20;
/// Bytes of buffers after which an upload waits for the oldest copy.
const LIMIT: usize = 128 << 20;

struct Buffer {
    host: HostPtr,
    bytes: usize,
    copied: Event,
}

/// Buffers in the order of their last use.
pub(crate) struct Staging {
    driver: Arc<dyn Driver>,
    stream: Stream,
    buffers: Mutex<Vec<Buffer>>,
}

impl Staging {
    pub fn new(driver: Arc<dyn Driver>, stream: Stream) -> Self {
        Staging { driver, stream, buffers: Mutex::default() }
    }

    /// Enqueues a copy of `bytes`; they may be changed once this returns.
    pub fn upload(&self, bytes: &[u8], to: Span) -> Result<()> {
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            let to = Span { ptr: to.ptr.offset(index * PIECE), bytes: piece.len() };
            let buffer = self.take(piece.len())?;
            self.driver.write_host(buffer.host, 0, piece)?;
            self.driver.copy_to_device(self.stream, buffer.host, 0, to)?;
            self.give(buffer)?;
        }
        Ok(())
    }

    /// Waits for the stream and reads device memory.
    pub fn download(&self, from: Span, bytes: &mut [u8]) -> Result<()> {
        for (index, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let from = Span { ptr: from.ptr.offset(index * PIECE), bytes: piece.len() };
            let buffer = self.take(piece.len())?;
            self.driver.copy_to_host(self.stream, from, buffer.host, 0)?;
            self.driver.synchronize(self.stream)?;
            self.driver.read_host(buffer.host, 0, piece)?;
            self.give(buffer)?;
        }
        Ok(())
    }

    fn take(&self, bytes: usize) -> Result<Buffer> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 0..buffers.len() {
            if buffers[index].bytes >= bytes && self.driver.is_done(buffers[index].copied)? {
                return Ok(buffers.remove(index));
            }
        }
        let size = bytes.next_power_of_two().max(1 << 12);
        let mut spare = None;
        while buffers.iter().map(|buffer| buffer.bytes).sum::<usize>() + size > LIMIT {
            let oldest = buffers.remove(0);
            self.driver.synchronize_event(oldest.copied)?;
            if oldest.bytes >= bytes {
                return Ok(oldest);
            }
            self.driver.free_host(oldest.host)?;
            spare = Some(oldest.copied);
        }
        let copied = spare.map_or_else(|| self.driver.event(), Ok)?;
        Ok(Buffer { host: self.driver.alloc_host(size)?, bytes: size, copied })
    }

    fn give(&self, buffer: Buffer) -> Result<()> {
        self.driver.record(buffer.copied, self.stream)?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let buffers = std::mem::take(self.buffers.get_mut().unwrap_or_else(PoisonError::into_inner));
        for buffer in buffers {
            let freed = self.driver.synchronize_event(buffer.copied).and_then(|()| self.driver.free_host(buffer.host));
            if let Err(error) = freed {
                tracing::warn!("host memory is not given back: {error}");
            }
        }
    }
}
