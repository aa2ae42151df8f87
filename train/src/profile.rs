//! Where the time of a step goes: a backend that measures every op of another one.
//!
//! While it records, each op is waited for, so that its time is its own; the step as a whole is slower than without.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use vila_engine::ops::{Cost, Op};
use vila_engine::{Backend, DType, Owner, Result, StorageStats, Tensor};

use crate::whole_file::write_whole;

/// One op that ran.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The backend's method.
    pub op: &'static str,
    /// Seconds from the start of the recording.
    pub start: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// What it had to do at least.
    pub cost: Cost,
}

/// All runs of one op.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// Seconds in all.
    pub seconds: f64,
    /// Work in all.
    pub cost: Cost,
}

/// The ops of [`Backend`], each of them given to `self.observe`.
macro_rules! observe_ops {
    () => {
        observe_ops! {
            gemm, Gemm;
            linear, Linear;
            bias_grad, BiasGrad;
            rms_norm, RmsNorm;
            rms_norm_backward, RmsNormBackward;
            layer_norm, LayerNorm;
            layer_norm_backward, LayerNormBackward;
            rope, Rope;
            attention, Attention;
            attention_backward, AttentionBackward;
            swiglu, Swiglu;
            swiglu_backward, SwigluBackward;
            gelu, Gelu;
            gelu_backward, GeluBackward;
            gather_rows, GatherRows;
            scatter_rows, ScatterRows;
            scatter_add_rows, ScatterAddRows;
            vision_embed, VisionEmbed;
            vision_embed_backward, VisionEmbedBackward;
            extract_patches, ExtractPatches;
            linear_cross_entropy, LinearCrossEntropy;
            dropout, Dropout;
            add, Add;
            copy, Copy;
            scale, Scale;
            fill, Fill;
            sum_squares, SumSquares;
            gradient_gate, GradientGate;
            adamw, AdamW;
            sample, Sample;
        }
    };
    ($($method:ident, $args:ident;)*) => {
        $(fn $method(&self, args: &vila_engine::ops::$args) -> vila_engine::Result<()> {
            self.observe(args)
        })*
    };
}
pub(crate) use observe_ops;

/// Measures the ops of another backend.
pub struct Profiler {
    inner: Arc<dyn Backend>,
    started: Instant,
    /// `None` while nothing is measured.
    records: Mutex<Option<Vec<Record>>>,
}

impl Profiler {
    /// Measures nothing until [`Profiler::start`].
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Profiler { inner, started: Instant::now(), records: Mutex::new(None) }
    }

    fn records(&self) -> MutexGuard<'_, Option<Vec<Record>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures from now on.
    pub fn start(&self) {
        self.records().get_or_insert_default();
    }

    /// Stops measuring and returns what was measured, if anything was.
    pub fn stop(&self) -> Option<Vec<Record>> {
        self.records().take()
    }

    fn observe(&self, args: &dyn Op) -> Result<()> {
        if self.records().is_none() {
            return args.run(&*self.inner);
        }
        let inner = &*self.inner;
        let cost = args.cost(&|boundaries| inner.to_vec::<u32>(boundaries))?;
        inner.synchronize()?;
        let start = self.started.elapsed().as_secs_f64();
        args.run(inner)?;
        inner.synchronize()?;
        let seconds = self.started.elapsed().as_secs_f64() - start;
        if let Some(records) = self.records().as_mut() {
            records.push(Record { op: args.name(), start, seconds, cost });
        }
        Ok(())
    }
}

/// Sums by op.
pub fn totals(records: &[Record]) -> BTreeMap<&'static str, Total> {
    let mut totals: BTreeMap<&'static str, Total> = BTreeMap::new();
    for record in records {
        let total = totals.entry(record.op).or_default();
        total.count += 1;
        total.seconds += record.seconds;
        total.cost.bytes += record.cost.bytes;
        total.cost.flops += record.cost.flops;
    }
    totals
}

/// A table of ops, the slowest first.
pub fn table(records: &[Record]) -> String {
    let all: f64 = records.iter().map(|record| record.seconds).sum();
    let mut rows: Vec<(&str, Total)> = totals(records).into_iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let mut text = format!("{:<24}{:>8}{:>12}{:>8}{:>10}{:>10}\n", "op", "runs", "ms", "share", "GB/s", "GFLOP/s");
    for (op, total) in rows {
        text += &format!(
            "{op:<24}{:>8}{:>12.3}{:>7.1}%{:>10.1}{:>10.1}\n",
            total.count,
            total.seconds * 1e3,
            100.0 * total.seconds / all.max(f64::MIN_POSITIVE),
            total.cost.bytes / total.seconds / 1e9,
            total.cost.flops / total.seconds / 1e9,
        );
    }
    text
}

/// Events for `chrome://tracing` and Perfetto.
pub fn chrome_trace(records: &[Record]) -> Value {
    let events: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "name": record.op, "ph": "X", "pid": 0, "tid": 0, "ts": record.start * 1e6, "dur": record.seconds * 1e6,
                "args": {"bytes": record.cost.bytes, "flops": record.cost.flops},
            })
        })
        .collect();
    json!({"traceEvents": events, "displayTimeUnit": "ms"})
}

/// Folder of a run that holds one for each stage that was measured.
pub(crate) const FOLDER: &str = "profile";
/// What [`write`] writes.
pub(crate) const FILES: [&str; 2] = ["profile.txt", "trace.json"];

/// Writes `profile.txt` and `trace.json` into a folder.
///
/// # Errors
/// The file that cannot be written.
pub fn write(records: &[Record], folder: &Path) -> crate::Result<()> {
    for (name, text) in FILES.into_iter().zip([table(records), chrome_trace(records).to_string()]) {
        write_whole(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

impl Backend for Profiler {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn needs_fixed_shapes(&self) -> bool {
        self.inner.needs_fixed_shapes()
    }

    fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }

    /// Measuring is waiting.
    fn allow_waiting(&self, allowed: bool) {
        self.inner.allow_waiting(allowed || self.records().is_some());
    }

    fn alloc_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.inner.alloc_for(owner, dtype, rows, cols)
    }

    fn zeros_for(&self, owner: Owner, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
        self.inner.zeros_for(owner, dtype, rows, cols)
    }

    fn memory(&self) -> StorageStats {
        self.inner.memory()
    }

    fn upload(&self, bytes: &[u8], to: &Tensor) -> Result<()> {
        self.inner.upload(bytes, to)
    }

    fn download(&self, from: &Tensor) -> Result<Vec<u8>> {
        self.inner.download(from)
    }

    observe_ops!();
}
