//! Reverse-mode differentiation over block-level ops.
//!
//! A [`ParamStore`] holds weights; those that train lie in one flat buffer with gradients at the same
//! offsets. A [`Tape`] runs ops on a [`vila_engine::Backend`] and records what their gradients need;
//! [`Tape::backward`] walks it once, adds weight gradients in place and frees activations as it goes.
//! An op whose inputs are all frozen records nothing.
//!
//! ```
//! use vila_autograd::{Init, ParamSpec, ParamStore, Tape};
//! use vila_engine::{Backend, CpuBackend, DType};
//! let cpu = CpuBackend::fast();
//! let spec = ParamSpec::new("weight", &[2, 3]).init(Init::Normal { std: 0.1 });
//! let store = ParamStore::new(&cpu, vec![spec], DType::F32, 0, |_| true)?;
//! let weight = store.id("weight").ok_or("no such parameter")?;
//! let mut tape = Tape::new(&cpu, &store);
//! let x = tape.input(cpu.upload_f32(4, 3, &[1.0; 12])?, false);
//! let y = tape.linear(&x, weight, None)?;
//! let dy = cpu.upload_f32(4, 2, &[1.0; 8])?;
//! tape.backward([(&y, dy)])?;
//! assert_eq!(store.grad(weight).ok_or("frozen")?.to_f32()?, [4.0; 6]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod grad_check;
mod ops;
mod store;
mod tape;

pub use grad_check::{GradCheck, grad_check};
pub use ops::LowRank;
pub use store::{Init, ParamId, ParamPart, ParamRange, ParamSpec, ParamStore};
pub use tape::{Recompute, Tape, Var};
pub use vila_engine::{Error, Result};
