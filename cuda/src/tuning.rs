//! The choice of algorithms of matrix products, by measuring them before training.

use std::collections::HashMap;
use std::sync::Arc;

use vila_engine::{Owner, Result};

use crate::driver::{Driver, Event, Matmul, Matrix, MatrixType, Span, Stream};
use crate::engine_error;
use crate::pool::Pool;

/// Operands of a tuned product start on multiples of this.
const ALIGNMENT: usize = 16;
/// Algorithms that are measured per product.
const CANDIDATES: usize = 16;
/// Products before measuring, in each measurement, and measurements of which the fastest counts.
const WARMUP: usize = 3;
const REPEATS: usize = 20;
const MEASUREMENTS: usize = 3;
/// Another algorithm than the library's favourite must be faster by this factor: less is noise.
const GAIN: f64 = 1.02;

/// A matrix product, whatever its operands hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Product {
    /// Rows and columns of `c`, inner size.
    pub size: [usize; 3],
    /// Of `a`, `b` and `c`.
    pub types: [MatrixType; 3],
    /// Of `a` and `b`.
    pub transposed: [bool; 2],
    /// Leading dimensions of `a`, `b` and `c`.
    pub lds: [usize; 3],
    /// Whether a bias is added.
    pub bias: bool,
}

/// Chosen algorithms.
pub type Table = HashMap<Product, [u64; 8]>;

/// What was measured for a product.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The product.
    pub product: Product,
    /// The fastest algorithm.
    pub algorithm: [u64; 8],
    /// Its time.
    pub microseconds: f64,
    /// Time of the library's favourite.
    pub favourite_microseconds: f64,
    /// How many algorithms were measured.
    pub measured: usize,
}

impl Product {
    /// The product that `matmul` asks for.
    pub fn of(matmul: &Matmul) -> Self {
        let Matmul { m, n, k, a, b, c, .. } = *matmul;
        Product {
            size: [m, n, k],
            types: [a.dtype, b.dtype, c.dtype],
            transposed: [a.transposed, b.transposed],
            lds: [a.ld, b.ld, c.ld],
            bias: matmul.bias.is_some(),
        }
    }

    /// Floating-point operations.
    pub fn flops(&self) -> f64 {
        2.0 * self.size.iter().map(|&extent| extent as f64).product::<f64>()
    }

    /// Stored rows and columns of `a`, `b` and `c`.
    fn extents(&self) -> [(usize, usize); 3] {
        let [m, n, k] = self.size;
        let [a, b] = self.transposed;
        [if a { (k, m) } else { (m, k) }, if b { (n, k) } else { (k, n) }, (m, n)]
    }
}

/// The table's algorithm for a product, where its operands are aligned as they were when it was measured.
pub(crate) fn choose(table: &Table, matmul: &Matmul) -> Option<[u64; 8]> {
    let spans = [Some(matmul.a.span), Some(matmul.b.span), Some(matmul.c.span), matmul.bias];
    let aligned = spans.into_iter().flatten().all(|span| span.ptr.0.is_multiple_of(ALIGNMENT as u64));
    if aligned { table.get(&Product::of(matmul)).copied() } else { None }
}

/// Measures the algorithms that the driver offers for each product; products without a choice are left out.
///
/// # Errors
/// Whatever the driver reports.
pub fn tune(driver: &Arc<dyn Driver>, products: &[Product]) -> Result<Vec<Tuned>> {
    let fail = |error| engine_error("tune", error);
    let stream = driver.stream().map_err(fail)?;
    let timers = [driver.timer().map_err(fail)?, driver.timer().map_err(fail)?];
    let pool = Pool::new(Arc::clone(driver), stream);
    let mut tuned = Vec::new();
    for &product in products {
        tuned.extend(tune_one(driver, &pool, stream, timers, product)?);
    }
    Ok(tuned)
}

fn tune_one(
    driver: &Arc<dyn Driver>,
    pool: &Arc<Pool>,
    stream: Stream,
    timers: [Event; 2],
    product: Product,
) -> Result<Option<Tuned>> {
    let fail = |error| engine_error("tune", error);
    let mut blocks = Vec::new();
    let mut operand = |bytes: usize| -> Result<Span> {
        // Aligned as little as the table promises.
        let block = pool.alloc(bytes + ALIGNMENT, Owner::Workspace)?;
        let span = Span { ptr: block.span().ptr.offset(ALIGNMENT), bytes };
        scatter(&**driver, stream, span).map_err(fail)?;
        blocks.push(block);
        Ok(span)
    };
    let mut matrix = |index: usize, transposed: bool| -> Result<Matrix> {
        let ((rows, cols), ld, dtype) = (product.extents()[index], product.lds[index], product.types[index]);
        let span = operand(((cols - 1) * ld + rows) * dtype.size())?;
        Ok(Matrix { span, dtype, ld, transposed })
    };
    let [m, n, k] = product.size;
    let [a, b, c] = [matrix(0, product.transposed[0])?, matrix(1, product.transposed[1])?, matrix(2, false)?];
    let bias = if product.bias { Some(operand(m * c.dtype.size())?) } else { None };
    let matmul = Matmul { m, n, k, a, b, c, alpha: 1.0, beta: 0.0, bias, workspace: None, algorithm: None };
    let candidates = driver.algorithms(&matmul, CANDIDATES).map_err(fail)?;
    let time = |algorithm: &[u64; 8]| {
        let candidate = Matmul { algorithm: Some(*algorithm), ..matmul };
        measure(&**driver, stream, timers, &candidate).map_err(fail)
    };
    let mut times = candidates.iter().map(time).collect::<Result<Vec<f64>>>()?;
    let Some(favourite) = candidates.first() else { return Ok(None) };
    // Its first measurement found a device that had yet to reach its clock.
    times[0] = times[0].min(time(favourite)?);
    let fastest = (0..times.len()).min_by(|&a, &b| times[a].total_cmp(&times[b])).unwrap_or(0);
    let chosen = if times[fastest] * GAIN < times[0] { fastest } else { 0 };
    Ok(Some(Tuned {
        product,
        algorithm: candidates[chosen],
        microseconds: times[chosen],
        favourite_microseconds: times[0],
        measured: candidates.len(),
    }))
}

/// Fills memory with small values of both signs: products of zeros would draw less power and run faster.
fn scatter(driver: &dyn Driver, stream: Stream, span: Span) -> crate::driver::Result<()> {
    const PIECE: usize = 1 << 20;
    let host = driver.alloc_host(PIECE)?;
    // Read as bf16 or as f32, each value lies between 2^-7 and 2.
    let words = (0..PIECE / 16).flat_map(|at| vila_engine::philox::words(0, 0, at as u64));
    let bytes: Vec<u8> = words.flat_map(|word| ((word & 0x83FF_83FF) | 0x3C00_3C00).to_le_bytes()).collect();
    driver.write_host(host, 0, &bytes)?;
    for at in (0..span.bytes).step_by(PIECE) {
        let piece = Span { ptr: span.ptr.offset(at), bytes: PIECE.min(span.bytes - at) };
        driver.copy_to_device(stream, host, 0, piece)?;
    }
    driver.synchronize(stream)?;
    driver.free_host(host)
}

/// Microseconds of one product.
fn measure(
    driver: &dyn Driver,
    stream: Stream,
    [start, end]: [Event; 2],
    matmul: &Matmul,
) -> crate::driver::Result<f64> {
    for _ in 0..WARMUP {
        driver.matmul(stream, matmul)?;
    }
    let mut best = f64::INFINITY;
    for _ in 0..MEASUREMENTS {
        driver.record(start, stream)?;
        for _ in 0..REPEATS {
            driver.matmul(stream, matmul)?;
        }
        driver.record(end, stream)?;
        driver.synchronize(stream)?;
        best = best.min(f64::from(driver.elapsed_ms(start, end)?) * 1e3 / REPEATS as f64);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DevicePtr;

    #[test]
    fn the_table_serves_aligned_operands_only() {
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
            beta: 1.0,
            bias: None,
            workspace: None,
            algorithm: None,
        };
        let table = Table::from([(Product::of(&matmul(0x1000)), [7; 8])]);
        assert_eq!(choose(&table, &matmul(0x1010)), Some([7; 8]));
        assert_eq!(choose(&table, &matmul(0x1008)), None);
        assert_eq!(choose(&table, &Matmul { k: 3, ..matmul(0x1000) }), None);
        assert_eq!(choose(&table, &Matmul { bias: Some(matrix(0).span), ..matmul(0x1000) }), None);
    }
}
