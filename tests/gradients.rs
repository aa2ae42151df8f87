//! Gradients of every tape op, by central differences in f64 on the reference.

use vila_autograd::{Init, LowRank, ParamId, ParamPart, ParamSpec, Recompute, Result, Tape, Var, grad_check};
use vila_engine::ops::{GeluKind, HeadShape};
use vila_engine::{Backend, CpuBackend, DType, NO_ROW};

const NORMAL: Init = Init::Normal { std: 0.8 };

fn spec(name: &str, shape: &[usize]) -> ParamSpec {
    ParamSpec::new(name, shape).init(NORMAL)
}

fn id(tape: &Tape, name: &str) -> ParamId {
    tape.store().id(name).expect("parameter")
}

fn check(
    op: &str,
    inputs: &[(usize, usize)],
    specs: Vec<ParamSpec>,
    f: impl for<'a> Fn(&mut Tape<'a>, &[Var<'a>]) -> Result<Var<'a>>,
) {
    for seed in [3, 4] {
        for result in grad_check(seed, inputs, specs.clone(), &f).unwrap_or_else(|error| panic!("{op}: {error}")) {
            assert!(result.error <= 1e-6, "{op}: gradient of {} is off by {:e}", result.operand, result.error);
        }
    }
}

type Row = (&'static str, fn(&'static str));

const TABLE: &[Row] = &[
    ("linear", |op| {
        check(op, &[(5, 4)], vec![spec("w", &[3, 4]), spec("b", &[3])], |tape, x| {
            tape.linear(&x[0], id(tape, "w"), Some(id(tape, "b")))
        });
        // One input used twice: the second gradient is added to the first.
        check(op, &[(9, 4)], vec![spec("w", &[3, 4]), spec("v", &[3, 4])], |tape, x| {
            let (a, b) = (tape.linear(&x[0], id(tape, "w"), None)?, tape.linear(&x[0], id(tape, "v"), None)?);
            tape.add(&a, &b)
        });
    }),
    ("rms_norm", |op| {
        check(op, &[(3, 5)], vec![spec("w", &[5])], |tape, x| tape.rms_norm(&x[0], id(tape, "w"), 1e-5));
        check(op, &[(3, 5), (3, 5)], vec![spec("w", &[5])], |tape, x| {
            let (sum, y) = tape.rms_norm_residual(&x[0], &x[1], id(tape, "w"), 1e-5)?;
            tape.add(&sum, &y)
        });
        // Only the sum goes on.
        check(op, &[(3, 5), (3, 5)], vec![spec("w", &[5])], |tape, x| {
            Ok(tape.rms_norm_residual(&x[0], &x[1], id(tape, "w"), 1e-5)?.0)
        });
    }),
    ("layer_norm", |op| {
        check(op, &[(4, 6)], vec![spec("w", &[6]), spec("b", &[6])], |tape, x| {
            tape.layer_norm(&x[0], id(tape, "w"), id(tape, "b"), 1e-5)
        });
    }),
    ("rope", |op| {
        check(op, &[(5, 14)], vec![], |tape, x| {
            let (cos, sin) = tables(tape.backend())?;
            let positions = tape.backend().upload_u32(&[0, 1, 2, 0, 1])?;
            tape.rope(x[0].clone(), 3, 4, (&cos, &sin), &positions)
        });
    }),
    ("attention", |op| {
        for causal in [true, false] {
            check(op, &[(9, 24)], vec![], move |tape, x| {
                let cu_seqlens = tape.backend().upload_u32(&[0, 1, 1, 6, 9])?;
                tape.attention(&x[0], HeadShape { heads: 4, kv_heads: 1, head_dim: 4 }, &cu_seqlens, causal)
            });
        }
    }),
    ("swiglu", |op| check(op, &[(3, 8)], vec![], |tape, x| tape.swiglu(&x[0]))),
    ("gelu", |op| {
        for kind in [GeluKind::Erf, GeluKind::Tanh, GeluKind::Quick] {
            check(op, &[(3, 8)], vec![], move |tape, x| tape.gelu(&x[0], kind));
        }
    }),
    ("embedding", |op| {
        check(op, &[], vec![spec("table", &[4, 3])], |tape, _| {
            let ids = tape.backend().upload_u32(&[1, 3, NO_ROW, 1, 0])?;
            tape.embedding(id(tape, "table"), &ids)
        });
    }),
    ("rows", |op| {
        check(op, &[(4, 3)], vec![], |tape, x| {
            let index = tape.backend().upload_u32(&[2, NO_ROW, 0, 2, 3, NO_ROW])?;
            let rows = tape.gather_rows(&x[0], &index)?;
            tape.reshape(&rows, 3, 6)
        });
        check(op, &[(2, 3)], vec![spec("table", &[4, 3])], |tape, x| {
            let ids = tape.backend().upload_u32(&[1, NO_ROW, 2, NO_ROW])?;
            let tokens = tape.embedding(id(tape, "table"), &ids)?;
            let slots = tape.backend().upload_u32(&[3, 1])?;
            tape.splice(tokens, &x[0], &slots)
        });
    }),
    ("add", |op| check(op, &[(2, 3), (2, 3)], vec![], |tape, x| tape.add(&x[0], &x[1]))),
    ("dropout", |op| check(op, &[(6, 5)], vec![], |tape, x| tape.dropout(&x[0], 0.4, 9, 1))),
    ("low_rank", |op| {
        let specs = || vec![spec("w", &[5, 4]), spec("down", &[3, 4]), spec("up", &[2, 3])];
        for noise in [None, Some(9)] {
            check(op, &[(6, 4)], specs(), move |tape, x| {
                // The tape's builder takes it whole.
                let (backend, store) = (tape.backend(), tape.store());
                let plain = std::mem::replace(tape, Tape::new(backend, store));
                *tape = if let Some(seed) = noise { plain.noise(seed) } else { plain };
                let y = tape.linear(&x[0], id(tape, "w"), None)?;
                let (down, up) = (id(tape, "down"), id(tape, "up"));
                let adapter = LowRank { down, up, cols: 1..3, scale: 0.5, dropout: 0.4, stream: 2 };
                tape.low_rank(y, &x[0], &adapter)
            });
        }
    }),
    ("vision_embed", |op| {
        check(op, &[(8, 3)], vec![spec("class", &[3]), spec("positions", &[5, 3])], |tape, x| {
            tape.vision_embed(&x[0], Some(id(tape, "class")), id(tape, "positions"))
        });
        check(op, &[(8, 3)], vec![spec("positions", &[4, 3])], |tape, x| {
            tape.vision_embed(&x[0], None, id(tape, "positions"))
        });
    }),
    ("linear_cross_entropy", |op| {
        check(op, &[(6, 4)], vec![spec("head", &[7, 4])], |tape, x| {
            let targets = tape.backend().upload_u32(&[0, 6, 3, 3, 1, 2])?;
            tape.linear_cross_entropy(&x[0], id(tape, "head"), &targets, 0.25, None)
        });
    }),
];

fn tables(backend: &dyn Backend) -> Result<(vila_engine::Tensor, vila_engine::Tensor)> {
    let (cos, sin) = (backend.alloc(DType::F64, 3, 2)?, backend.alloc(DType::F64, 3, 2)?);
    let angles = [0.0, 0.0, 1.0, 0.1, 2.0, 0.2f64];
    cos.set_f64(&angles.map(f64::cos))?;
    sin.set_f64(&angles.map(f64::sin))?;
    Ok((cos, sin))
}

#[test]
fn gradients_match_finite_differences() {
    TABLE.iter().for_each(|(op, run)| run(op));
}

#[test]
fn every_tape_op_has_a_row() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../autograd/src/ops");
    for entry in std::fs::read_dir(folder).expect("ops") {
        let name = entry.expect("entry").file_name().into_string().expect("name");
        let name = name.trim_end_matches(".rs");
        assert!(name == "mod" || TABLE.iter().any(|row| row.0 == name), "{name} has no gradient check");
    }
}

/// A transformer block in miniature, over every recompute policy.
fn block<'a>(tape: &mut Tape<'a>, x: &[Var<'a>]) -> Result<Vec<Var<'a>>> {
    let normed = tape.rms_norm(&x[0], id(tape, "norm"), 1e-5)?;
    let gate_up = tape.linear(&normed, id(tape, "gate_up"), None)?;
    let hidden = tape.swiglu(&gate_up)?;
    let y = tape.linear(&hidden, id(tape, "down"), None)?;
    let (sum, normed) = tape.rms_norm_residual(&y, &x[0], id(tape, "norm"), 1e-5)?;
    let normed = tape.gelu(&normed, GeluKind::Tanh)?;
    Ok(vec![tape.add(&sum, &normed)?])
}

#[test]
fn recompute_changes_no_bit_and_parameters_complete_once() {
    let cpu = CpuBackend::fast();
    let specs = || vec![spec("norm", &[16]), spec("gate_up", &[40, 16]), spec("down", &[16, 20])];
    let store = vila_autograd::ParamStore::new(&cpu, specs(), DType::F32, 1, |_| true).expect("store");
    let values: Vec<f32> = (0..160).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut all = Vec::new();
    for recompute in [Recompute::None, Recompute::Cheap, Recompute::Block] {
        store.zero_grads(&cpu).expect("zero");
        let completed = std::cell::RefCell::new(Vec::new());
        let mut tape = Tape::new(&cpu, &store).recompute(recompute).on_complete(|id| completed.borrow_mut().push(id));
        let x = tape.input(cpu.upload_f32(10, 16, &values).expect("x"), true);
        let y = tape.block(std::slice::from_ref(&x), block).expect("block").remove(0);
        let y = tape.block(&[y], block).expect("block").remove(0);
        tape.backward([(&y, cpu.upload_f32(10, 16, &values).expect("dy"))]).expect("backward");
        all.push((store.flat_grads().to_f32().expect("grads"), tape.grad(&x).expect("dx").to_f32().expect("dx")));
        let mut completed = completed.take();
        completed.sort();
        assert_eq!(completed, store.ids().collect::<Vec<_>>(), "{recompute:?}");
    }
    assert!(all[0] == all[1] && all[0] == all[2]);
    assert!(all[0].0.iter().all(|x| x.is_finite()) && all[0].0.iter().any(|x| *x != 0.0));
}

#[test]
fn frozen_subgraphs_record_nothing() {
    let cpu = CpuBackend::fast();
    let specs = vec![spec("norm", &[16]), spec("gate_up", &[40, 16]), spec("down", &[16, 20])];
    let store = vila_autograd::ParamStore::new(&cpu, specs, DType::F32, 1, |_| false).expect("store");
    let mut tape = Tape::new(&cpu, &store);
    let x = tape.input(cpu.upload_f32(10, 16, &[0.5; 160]).expect("x"), false);
    block(&mut tape, &[x]).expect("block");
    assert_eq!(tape.recorded(), 0);
}

#[test]
fn fused_parts_lie_side_by_side_and_start_by_their_names() {
    let cpu = CpuBackend::fast();
    let part = |name: &str, rows| ParamPart { name: name.into(), shape: vec![rows, 3] };
    let fused = ParamSpec::fused("qkv", vec![part("q", 4), part("k", 2)]).init(NORMAL);
    let store =
        vila_autograd::ParamStore::new(&cpu, vec![spec("b", &[5]), fused], DType::F32, 9, |_| true).expect("store");
    let alone = vila_autograd::ParamStore::new(&cpu, vec![spec("k", &[2, 3])], DType::F32, 9, |_| true).expect("store");
    let qkv = store.weight(store.id("qkv").expect("qkv")).expect("whole");
    let k = alone.weight(alone.id("k").expect("k")).expect("whole").to_f32().expect("k");
    assert_eq!(qkv.shape(), (6, 3));
    assert_eq!(qkv.to_f32().expect("qkv")[12..], k[..]);
    let ranges: Vec<_> =
        store.ranges().iter().map(|range| (range.name.as_str(), range.range.clone(), range.decay)).collect();
    assert_eq!(ranges, [("b", 0..5, false), ("q", 128..140, true), ("k", 140..146, true)]);
}
