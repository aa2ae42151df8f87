//! The CUDA backend on the emulated device: every kernel against the reference, over schedules, and broken on purpose.

use std::collections::BTreeSet;
use std::sync::Arc;

use vila_cuda::kernels::{self, Source};
use vila_cuda::{CudaBackend, Emulated, EmulatedOptions, Nvidia, Target};
use vila_engine::ops::{Attention, AttentionBackward, HeadShape};
use vila_engine::{Backend, CpuBackend, DType, Result};

use crate::mutations::{MUTATIONS, Mutations};
use crate::nvrtc;
use crate::op_table::{Output, Row, SIZES, TABLE, agree, check_wrong_index, expected, named, run, tolerance};

const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Kernels whose tests reach less than 95 % of their basic blocks: lowest share, and why.
const COVERAGE_EXCEPTIONS: &[(&str, f64, &str)] = &[];

fn emulated(options: EmulatedOptions, sources: Vec<Source>) -> (CudaBackend, Arc<Emulated>) {
    let device = Arc::new(Emulated::new(options));
    (CudaBackend::with_sources(device.clone(), sources).expect("backend"), device)
}

/// The device that `VILA_TEST_DEVICE` names, or an emulated one.
fn under_test(options: EmulatedOptions) -> (CudaBackend, Option<Arc<Emulated>>) {
    if nvrtc::on_hardware() {
        let driver = Arc::new(Nvidia::open(0).unwrap_or_else(|error| panic!("{error}")));
        return (CudaBackend::new(driver).expect("backend"), None);
    }
    let (cuda, device) = emulated(options, kernels::sources());
    (cuda, Some(device))
}

fn checked() -> EmulatedOptions {
    EmulatedOptions { checked: true, ..EmulatedOptions::default() }
}

/// Rows named in `VILA_TEST_OP` (a comma-separated list), or all.
fn rows() -> Vec<&'static Row> {
    let list = std::env::var("VILA_TEST_OP").ok();
    named(list.as_deref(), TABLE).unwrap_or_else(|error| panic!("VILA_TEST_OP: {error}"))
}

/// Also where kernels cannot be compiled and every other test of them is skipped.
#[test]
fn the_rows_that_are_asked_for_exist() {
    assert!(!rows().is_empty());
}

fn check(cuda: &CudaBackend, dtype: DType, size: usize, row: &Row) -> std::result::Result<(), String> {
    let got = run(cuda, dtype, dtype == DType::BF16, size, row).map_err(|error| error.to_string())?;
    agree(&got, &expected(dtype, size, row), tolerance(dtype))
}

/// Names of all `__global__` functions.
fn instances() -> BTreeSet<String> {
    let ptx = |source: &Source| kernels::compile(source, &Target::Ptx("compute_80".into())).expect("compiles");
    let entries = |ptx: Vec<u8>| {
        let text = String::from_utf8(ptx).expect("text");
        let names = text.lines().filter_map(|line| line.split_once(".entry ")?.1.split(['(', ' ']).next());
        names.map(str::to_string).collect::<Vec<_>>()
    };
    kernels::sources().iter().flat_map(|source| entries(ptx(source))).collect()
}

/// The kernel behind an instance: its name without element type and head width, as in `attention_d64_bf16`.
fn kernel(instance: &str) -> &str {
    let name = without_types(instance);
    match name.rsplit_once("_d") {
        Some((family, width)) if !width.is_empty() && width.bytes().all(|b| b.is_ascii_digit()) => family,
        _ => name,
    }
}

#[test]
fn kernels_agree_with_the_reference() {
    if !nvrtc::available() {
        return;
    }
    let (cuda, device) = under_test(checked());
    let mut wrong = Vec::new();
    for row in rows() {
        for dtype in TYPES {
            for size in 0..SIZES {
                let result = check(&cuda, dtype, size, row);
                wrong.extend(result.err().map(|error| format!("{} {dtype:?} case {size}: {error}", row.0)));
            }
            check_wrong_index(&cuda, dtype, row);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if let Some(device) = device {
        check_coverage(&device);
    }
}

/// Every kernel has run, and its tests reach its basic blocks.
fn check_coverage(device: &Emulated) {
    let coverage = device.coverage();
    let all = instances();
    if std::env::var_os("VILA_TEST_OP").is_none() {
        let untested: Vec<_> = all.iter().filter(|name| !coverage.contains_key(*name)).collect();
        assert!(untested.is_empty(), "never launched: {untested:?}");
    }
    let mut low = Vec::new();
    for (kernel, coverage) in coverage {
        let exception = COVERAGE_EXCEPTIONS.iter().find(|exception| exception.0 == kernel);
        let wanted = exception.map_or(0.95, |exception| exception.1);
        let (ratio, missed) = (coverage.ratio(), coverage.missed_lines());
        if ratio < wanted {
            low.push(format!("{kernel}: tests reach {ratio:.3} of the basic blocks, not lines {missed:?}"));
        }
    }
    assert!(low.is_empty(), "{}", low.join("\n"));
}

#[test]
fn bits_do_not_depend_on_the_schedule() {
    if !nvrtc::available() {
        return;
    }
    for row in rows() {
        for dtype in TYPES {
            let outputs = |seed| {
                let (cuda, _) = under_test(EmulatedOptions { seed, ..EmulatedOptions::default() });
                let bits = |x: Output| x.values.into_iter().map(f64::to_bits).collect::<Vec<_>>();
                let outputs = run(&cuda, dtype, dtype == DType::BF16, 3, row);
                outputs.unwrap_or_else(|e| panic!("{}: {e}", row.0)).into_iter().map(bits).collect::<Vec<_>>()
            };
            let first = outputs(0);
            assert_eq!(first, outputs(0), "{} {dtype:?} a second time", row.0);
            for seed in 1..10 {
                assert_eq!(first, outputs(seed), "{} {dtype:?} schedule {seed}", row.0);
            }
        }
    }
}

/// Whether some case of some row fails with the source edited.
fn is_noticed(mutations: &Mutations, find: &str, replace: &str) -> bool {
    let mut sources = kernels::sources();
    let source = sources.iter_mut().find(|source| source.name == mutations.file).expect("file");
    assert_eq!(source.text.matches(find).count(), 1, "{}: `{find}` must occur once", mutations.file);
    source.text = source.text.replacen(find, replace, 1);
    kernels::compile(source, &Target::Ptx("compute_80".into())).unwrap_or_else(|error| panic!("{error}"));
    let rows: Vec<&Row> = TABLE.iter().filter(|row| mutations.rows.contains(&row.0)).collect();
    assert_eq!(rows.len(), mutations.rows.len(), "{}: unknown rows in {:?}", mutations.kernel, mutations.rows);
    let instances = instances();
    let mut types = TYPES.to_vec();
    types.retain(|dtype| {
        let other = if *dtype == DType::F32 { "_bf16" } else { "_f32" };
        !instances.iter().filter(|name| kernel(name) == mutations.kernel).all(|name| name.ends_with(other))
    });
    for size in [3, 2, 1, 0, 6, 5, 4] {
        for &dtype in &types {
            for row in &rows {
                let (cuda, _) = emulated(checked(), sources.clone());
                if check(&cuda, dtype, size, row).is_err() {
                    return true;
                }
            }
        }
    }
    false
}

#[test]
fn broken_kernels_are_noticed() {
    if !nvrtc::available() {
        return;
    }
    let only = std::env::var("VILA_TEST_KERNEL").ok();
    for name in only.iter().flat_map(|only| only.split(',')) {
        let known: Vec<&str> = MUTATIONS.iter().map(|mutations| mutations.kernel).collect();
        assert!(known.contains(&name), "VILA_TEST_KERNEL: no kernel is named `{name}`; there are {}", known.join(", "));
    }
    let mut survived = Vec::new();
    for mutations in
        MUTATIONS.iter().filter(|m| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == m.kernel)))
    {
        assert!(mutations.edits.len() >= 3, "{}: at least three edits", mutations.kernel);
        for (find, replace) in mutations.edits {
            if !is_noticed(mutations, find, replace) {
                survived.push(format!("{}: `{find}` -> `{replace}`", mutations.kernel));
            }
        }
    }
    assert!(survived.is_empty(), "not noticed:\n{}", survived.join("\n"));
}

/// A name without the suffixes of its element types, of which a conversion has two.
fn without_types(name: &str) -> &str {
    let shorter = name.strip_suffix("_f32").or_else(|| name.strip_suffix("_bf16"));
    shorter.map_or(name, without_types)
}

/// Gradient of one head of 16 columns whose queries are `q`, keys `-q` and values 1, on two backends.
fn attention_gradient(backend: &dyn Backend, dtype: DType, q: f64, rows: usize, bounds: &[u32]) -> Result<Vec<f64>> {
    let shape = HeadShape { heads: 1, kv_heads: 1, head_dim: 16 };
    let fill = |dtype, cols: usize, value: f64| {
        let tensor = CpuBackend::reference().alloc(dtype, rows, cols)?;
        let column = |i: usize| if i % cols < 16 { value } else { [-value, 1.0][(i % cols - 16) / 16] };
        tensor.set_f64(&(0..rows * cols).map(column).collect::<Vec<_>>())?;
        let copy = backend.alloc(dtype, rows, cols)?;
        backend.upload(&CpuBackend::reference().download(&tensor)?, &copy).map(|()| copy)
    };
    let (qkv, d_o, o) = (fill(dtype, 48, q)?, fill(dtype, 16, 1.0)?, fill(dtype, 16, 0.0)?);
    let (lse, dqkv) = (fill(DType::F32, 1, 0.0)?, fill(dtype, 48, 0.0)?);
    let cu_seqlens = backend.upload_u32(bounds)?;
    backend.attention(&Attention {
        q: &qkv.slice_cols(0..16)?,
        k: &qkv.slice_cols(16..32)?,
        v: &qkv.slice_cols(32..48)?,
        cu_seqlens_q: &cu_seqlens,
        cu_seqlens_k: &cu_seqlens,
        shape,
        scale: 0.25,
        causal: false,
        o: &o,
        lse: &lse,
    })?;
    backend.attention_backward(&AttentionBackward {
        qkv: &qkv,
        cu_seqlens: &cu_seqlens,
        shape,
        scale: 0.25,
        causal: false,
        o: &o,
        lse: &lse,
        d_o: &d_o,
        dqkv: &dqkv,
    })?;
    if dtype == DType::F32 {
        return Ok(backend.to_vec::<f32>(&dqkv)?.into_iter().map(f64::from).collect());
    }
    Ok(backend.to_vec::<half::bf16>(&dqkv)?.into_iter().map(half::bf16::to_f64).collect())
}

/// The zeros after a document's last key would have infinite weight where all scores are small: `exp(0 + 256)`.
#[test]
fn zeros_after_a_document_have_no_weight() {
    if !nvrtc::available() {
        return;
    }
    let (cuda, _) = emulated(checked(), kernels::sources());
    let gradient = |backend| {
        let values = attention_gradient(backend, DType::BF16, 8.0, 70, &[0, 3, 70]).expect("gradient");
        Output { values, exact: false }
    };
    agree(&[gradient(&cuda)], &[gradient(&CpuBackend::reference())], 1e-2).unwrap();
}

#[test]
fn wrong_document_boundaries_stay_inside_the_tensors() {
    if !nvrtc::available() {
        return;
    }
    let (cuda, _) = emulated(EmulatedOptions::default(), kernels::sources());
    for bounds in [&[0, 50, 20, 70][..], &[9, 3_000_000_000, 4, u32::MAX], &[u32::MAX, 0, 0], &[0], &[]] {
        for dtype in TYPES {
            attention_gradient(&cuda, dtype, 1.0, 70, bounds).unwrap_or_else(|error| panic!("{bounds:?}: {error}"));
        }
    }
}

#[test]
fn every_kernel_has_mutations() {
    if !nvrtc::available() {
        return;
    }
    let instances = instances();
    let bare: BTreeSet<&str> = instances.iter().map(|name| kernel(name)).collect();
    let mutated: BTreeSet<&str> = MUTATIONS.iter().map(|mutations| mutations.kernel).collect();
    assert_eq!(bare, mutated);
}
