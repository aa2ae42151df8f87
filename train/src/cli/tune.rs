use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use vila_autograd::Recompute;
use vila_cuda::{CudaBackend, Driver, tuning};
use vila_engine::{Backend, DType};

use super::bench::config;
use super::{Failure, Outcome, Usage, print};
use crate::bench::{StepOptions, StepShape, bench_step};
use crate::device;
use crate::gemm_table::GemmTable;
use crate::say::say;

#[derive(Args)]
pub(super) struct TuneArguments {
    /// toy | small
    #[arg(long, default_value = "toy")]
    preset: String,
    /// Positions per document.
    #[arg(long, default_value_t = 256)]
    seq: usize,
    /// Documents per step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Images per document.
    #[arg(long, default_value_t = 2)]
    images: usize,
    /// cuda[:N]
    #[arg(long, default_value = "cuda")]
    device: String,
    /// Where the table goes.
    #[arg(long, default_value = "gemm-table.json")]
    out: PathBuf,
}

pub(super) fn tune(arguments: &TuneArguments) -> Result<Outcome, Failure> {
    let config = config(&arguments.preset)?;
    let name = &arguments.device;
    let ordinal = match (device::ordinal(name), name.as_str()) {
        (Some(ordinal), _) => ordinal,
        (None, "cpu" | "emulator") => {
            return Err(
                format!("--device {name}: tuning needs a CUDA device, since others have one algorithm only").into()
            );
        }
        (None, _) => return Err(Usage(format!("--device {name}: there are cuda and cuda:N")).into()),
    };
    let driver = device::cuda::driver(ordinal).map_err(|reason| format!("--device {name}: {reason}"))?;
    say(format_args!("device: {}", device::cuda::label(ordinal, &driver)));
    let cuda = Arc::new(CudaBackend::new(driver.clone())?);
    let shape = StepShape { seq: arguments.seq, batch: arguments.batch, images: arguments.images };
    let options = StepOptions { dtype: DType::BF16, recompute: Recompute::Cheap, warmup: 0, steps: 1 };
    bench_step(&(cuda.clone() as Arc<dyn Backend>), &config, shape, options)?;
    let tuned = tuning::tune(&(driver.clone() as Arc<dyn Driver>), &cuda.products())?;
    GemmTable::write(&arguments.out, &driver, &tuned)?;
    let mut text = String::new();
    for row in &tuned {
        let [m, n, k] = row.product.size;
        text.push_str(&format!(
            "{m:6} x {n:6} x {k:6}  {:?}  favourite {:.1} us, fastest of {} {:.1} us, {:.1} TFLOP/s\n",
            row.product.types,
            row.favourite_microseconds,
            row.measured,
            row.microseconds,
            row.product.flops() / row.microseconds / 1e6
        ));
    }
    let out = arguments.out.display();
    print(&format!("{text}{} products in {out}; use them with VILA_GEMM_TABLE={out}\n", tuned.len()))?;
    Ok(Outcome::Done)
}
