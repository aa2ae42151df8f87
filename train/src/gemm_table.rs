//! The file of tuned matrix products: written by `vila bench tune`, read where `VILA_GEMM_TABLE` names it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vila_cuda::tuning::{Product, Table, Tuned};
use vila_cuda::{Driver, MatrixType, Nvidia};

use crate::{Error, Result};

/// Algorithms are numbers of one library on one kind of device.
#[derive(Debug, Serialize, Deserialize)]
pub struct GemmTable {
    device: String,
    cublaslt: String,
    products: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    m: usize,
    n: usize,
    k: usize,
    /// Of `a`, `b` and `c`: `f32` or `bf16`.
    types: [String; 3],
    /// Of `a` and `b`.
    transposed: [bool; 2],
    lds: [usize; 3],
    bias: bool,
    algorithm: [u64; 8],
    microseconds: f64,
    favourite_microseconds: f64,
}

impl GemmTable {
    /// Writes what was measured.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(path: &Path, driver: &Nvidia, tuned: &[Tuned]) -> Result<()> {
        let table = GemmTable {
            device: driver.info().name.clone(),
            cublaslt: driver.blas().version(),
            products: tuned.iter().map(Row::of).collect(),
        };
        let text = serde_json::to_string_pretty(&table).unwrap_or_default();
        vila_files::write(path, (text + "\n").as_bytes()).map_err(Error::io(path))
    }

    /// Reads a table for a device; returns it with a short hash of its text.
    ///
    /// # Errors
    /// A paragraph: the file cannot be read, or is of another device or library.
    pub fn read(path: &Path, driver: &Nvidia) -> std::result::Result<(Table, String), String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let here = (driver.info().name.as_str(), driver.blas().version());
        Self::parse(&text, here.0, &here.1).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    fn parse(text: &str, device: &str, cublaslt: &str) -> std::result::Result<(Table, String), String> {
        let table: GemmTable = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if (table.device.as_str(), table.cublaslt.as_str()) != (device, cublaslt) {
            return Err(format!(
                "was made on {} with cuBLASLt {}, here are {device} and {cublaslt}: make it again with `vila bench tune`, or \
                 leave VILA_GEMM_TABLE unset",
                table.device, table.cublaslt
            ));
        }
        let products = table.products.iter().map(|row| Ok((row.product()?, row.algorithm)));
        let hash = Sha256::digest(text.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok((products.collect::<std::result::Result<Table, String>>()?, hash))
    }
}

impl Row {
    fn of(tuned: &Tuned) -> Self {
        let Product { size: [m, n, k], types, transposed, lds, bias } = tuned.product;
        let name = |dtype| match dtype {
            MatrixType::F32 => "f32".into(),
            MatrixType::Bf16 => "bf16".into(),
        };
        Row {
            m,
            n,
            k,
            types: types.map(name),
            transposed,
            lds,
            bias,
            algorithm: tuned.algorithm,
            microseconds: tuned.microseconds,
            favourite_microseconds: tuned.favourite_microseconds,
        }
    }

    fn product(&self) -> std::result::Result<Product, String> {
        let mut types = [MatrixType::F32; 3];
        for (dtype, name) in types.iter_mut().zip(&self.types) {
            *dtype = match name.as_str() {
                "f32" => MatrixType::F32,
                "bf16" => MatrixType::Bf16,
                other => return Err(format!("{other} is no element type: there are f32 and bf16")),
            };
        }
        let size = [self.m, self.n, self.k];
        Ok(Product { size, types, transposed: self.transposed, lds: self.lds, bias: self.bias })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written_and_for_its_device_only() {
        let product = Product {
            size: [8, 4, 2],
            types: [MatrixType::Bf16, MatrixType::Bf16, MatrixType::F32],
            transposed: [true, false],
            lds: [8, 8, 16],
            bias: true,
        };
        let algorithm = [u64::MAX, 1, 2, 3, 4, 5, 6, 7];
        let tuned = Tuned { product, algorithm, microseconds: 1.5, favourite_microseconds: 2.0, measured: 3 };
        let table = GemmTable { device: "H100".into(), cublaslt: "13.0.2".into(), products: vec![Row::of(&tuned)] };
        let text = serde_json::to_string_pretty(&table).expect("JSON");
        let (read, hash) = GemmTable::parse(&text, "H100", "13.0.2").expect("the same device");
        assert_eq!(read, Table::from([(product, algorithm)]));
        assert_eq!(hash.len(), 8);
        assert!(GemmTable::parse(&text, "H200", "13.0.2").expect_err("another device").contains("was made on H100"));
        assert!(GemmTable::parse(&text, "H100", "12.9.1").is_err());
        assert!(GemmTable::parse(&text.replace("bf16", "f16"), "H100", "13.0.2").expect_err("type").contains("f16"));
    }
}
