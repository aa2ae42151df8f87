//! Trains a two-layer network on handwritten digits with nothing but this crate and the engine.
//!
//!     cargo run --release -p vila-autograd --example digits_mlp

use vila_autograd::{Init, ParamSpec, ParamStore, Tape};
use vila_engine::ops::{AdamW, GeluKind};
use vila_engine::{Backend, CpuBackend, DType};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../train/assets/digits");
    let sheet = image::open(format!("{folder}/digits.png"))?.to_luma8();
    let labels = std::fs::read_to_string(format!("{folder}/labels.txt"))?;
    let labels: Vec<u32> = labels.trim().chars().filter_map(|c| c.to_digit(10)).collect();
    let tile = |i: usize| {
        let (x, y) = (i % 60 * 8, i / 60 * 8);
        let sheet = &sheet;
        (0..64).map(move |p| f32::from(sheet.get_pixel((x + p % 8) as u32, (y + p / 8) as u32)[0]) / 255.0)
    };
    let pixels: Vec<f32> = (0..labels.len()).flat_map(tile).collect();

    let cpu = CpuBackend::fast();
    let uniform = |fan_in: f64| Init::Uniform { bound: 1.0 / fan_in.sqrt() };
    let specs = vec![
        ParamSpec::new("hidden.weight", &[128, 64]).init(uniform(64.0)),
        ParamSpec::new("hidden.bias", &[128]),
        ParamSpec::new("out.weight", &[10, 128]).init(uniform(128.0)),
    ];
    let store = ParamStore::new(&cpu, specs, DType::F32, 0, |_| true)?;
    let id = |name: &str| store.id(name).ok_or("no such parameter");
    let (hidden, bias, out) = (id("hidden.weight")?, id("hidden.bias")?, id("out.weight")?);

    let (train, test) = (1397, labels.len());
    let x = cpu.upload_f32(test, 64, &pixels)?;
    let targets = cpu.upload_u32(&labels[..train])?;
    let weights = store.flat_weights();
    let (m, v) = (cpu.zeros(DType::F32, 1, weights.cols())?, cpu.zeros(DType::F32, 1, weights.cols())?);
    let gate = cpu.upload_f32(1, 4, &[1.0, 0.0, 1.0, 0.0])?;
    for update in 1..=300 {
        store.zero_grads(&cpu)?;
        let mut tape = Tape::new(&cpu, &store);
        let input = tape.input(x.slice_rows(0..train)?, false);
        let h = tape.linear(&input, hidden, Some(bias))?;
        let h = tape.gelu(&h, GeluKind::Tanh)?;
        let loss = tape.linear_cross_entropy(&h, out, &targets, 1.0 / train as f64, None)?;
        tape.backward_loss(&loss)?;
        let (grad, betas) = (store.flat_grads(), (0.9, 0.999));
        cpu.adamw(&AdamW {
            weights,
            m: &m,
            v: &v,
            grad,
            publish: None,
            gate: &gate,
            updates: &cpu.upload_u32(&[update])?,
            lr: 3e-3,
            betas,
            eps: 1e-8,
            decay: 0.0,
            seed: 0,
            offset: 0,
        })?;
    }
    let mut tape = Tape::inference(&cpu, &store);
    let input = tape.input(x.slice_rows(train..test)?, false);
    let h = tape.linear(&input, hidden, Some(bias))?;
    let h = tape.gelu(&h, GeluKind::Tanh)?;
    let logits = tape.linear(&h, out, None)?.tensor().to_f32()?;
    let best = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
    let right = logits.chunks(10).zip(&labels[train..]).filter(|(row, label)| best(row) == **label).count();
    println!("{right} of {} held-out digits are right", test - train);
    Ok(())
}
