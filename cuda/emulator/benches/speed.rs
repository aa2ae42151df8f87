//! Speed of the machine: `cargo bench -p ptx-emulator`. Each figure is the best of a few runs, on one core unless said.

#[path = "../tests/common/cases.rs"]
mod cases;
#[path = "../tests/common/mod.rs"]
mod common;

use ptx_emulator::{Memory, Module, Options, Report};
use std::time::Instant;

fn best(mut f: impl FnMut() -> (f64, Report)) -> (f64, Report) {
    let mut best = f();
    for _ in 0..4 {
        let r = f();
        if r.0 < best.0 {
            best = r;
        }
    }
    best
}

fn line(name: &str, limit: f64, (time, report): (f64, Report)) {
    let rate = report.thread_instructions as f64 / time / 1e6;
    let verdict = if time <= limit { "" } else { "  SLOWER THAN ITS TARGET" };
    println!("{name:44} {time:9.4} s  (target {limit:6.3})  {rate:8.1} M thread instructions/s{verdict}");
}

/// Processor seconds that this process has used so far; on Linux.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

/// Two threads against one. The work they do in all says what they cost each other, also on a busy machine.
fn two_threads(name: &str, run: impl Fn(usize) -> (f64, Report)) {
    let [one, two] = [1, 2].map(|threads| {
        let before = processor_seconds();
        let mut time = f64::INFINITY;
        // Long enough for a clock of hundredths.
        let rounds = (1.0 / run(1).0).clamp(4.0, 100.0) as usize;
        for _ in 0..rounds {
            time = run(threads).0.min(time);
        }
        (time, processor_seconds().zip(before).map(|(a, b)| (a - b) / rounds as f64))
    });
    let work = two.1.zip(one.1).map_or(String::new(), |(a, b)| format!(", {:.2} times the processor time", a / b));
    println!("two threads, {name}: {:.2}x (target 1.7){work}", one.0 / two.0);
}

fn main() {
    let Some(nvrtc) = common::nvrtc() else { return };
    let load = |file: &str| Module::from_ptx(&nvrtc.kernel(file, "compute_80", &[])).unwrap();
    let (flash, gemm, rms, adamw) = (load("flash.cu"), load("gemm.cu"), load("rmsnorm.cu"), load("adamw.cu"));
    let plain = Options::fast;
    let checked = Options::default;
    // Only the launch counts: data is made and compared outside.
    let run_flash = |o: Options| {
        let memory = Memory::new();
        let mut rng = common::Rng(1);
        let n = 2 * 256 * 64;
        let [q, k, v] = [0; 3].map(|_| memory.alloc_from(&common::bytes16(&rng.bf16(n))).unwrap());
        let (o_, lse) = (memory.alloc(n * 2).unwrap(), memory.alloc(2 * 256 * 4).unwrap());
        let kernel = flash.kernel(&memory, "flash_fwd").unwrap().with(o);
        let args = [q.into(), k.into(), v.into(), o_.into(), lse.into(), 256i32.into(), 0.125f32.into()];
        let t = Instant::now();
        let r = kernel.launch((4, 2), 128, 5 * 8192, &args).unwrap();
        (t.elapsed().as_secs_f64(), r)
    };
    let run_gemm = |o: Options| {
        let memory = Memory::new();
        let mut rng = common::Rng(2);
        let [a, b] = [0; 2].map(|_| memory.alloc_from(&common::bytes16(&rng.bf16(512 * 512))).unwrap());
        let c = memory.alloc(512 * 512 * 2).unwrap();
        let kernel = gemm.kernel(&memory, "gemm_bf16").unwrap().with(o);
        let args = [a.into(), b.into(), c.into(), 512i32.into(), 512i32.into(), 512i32.into()];
        let t = Instant::now();
        let r = kernel.launch((4, 4), 256, 49152, &args).unwrap();
        (t.elapsed().as_secs_f64(), r)
    };
    let run_rms = |o: Options| {
        let memory = Memory::new();
        let (rows, d) = (256usize, 1024usize);
        let mut rng = common::Rng(3);
        let x = memory.alloc_from(&common::bytes16(&rng.bf16(rows * d))).unwrap();
        let w = memory.alloc_from(&common::bytes16(&rng.bf16(d))).unwrap();
        let (y, r) = (memory.alloc(rows * d * 2).unwrap(), memory.alloc(rows * 4).unwrap());
        let kernel = rms.kernel(&memory, "rmsnorm_fwd").unwrap().with(o);
        let args = [x.into(), w.into(), y.into(), r.into(), (d as i32).into(), 1e-5f32.into()];
        let t = Instant::now();
        let r = kernel.launch(rows as u32, 256, 0, &args).unwrap();
        (t.elapsed().as_secs_f64(), r)
    };
    let run_adamw = |o: Options| {
        let memory = Memory::new();
        let n = 1usize << 18;
        let mut rng = common::Rng(4);
        let zeros = vec![0u8; n * 4];
        let [p, m, v] = [0; 3].map(|_| memory.alloc_from(&zeros).unwrap());
        let (pb, g) = (memory.alloc(n * 2).unwrap(), memory.alloc_from(&common::bytes16(&rng.bf16(n))).unwrap());
        let kernel = adamw.kernel(&memory, "adamw").unwrap().with(o);
        let mut args = vec![p.into(), pb.into(), g.into(), m.into(), v.into(), (n as i32).into()];
        args.extend([0.01f32, 0.9, 0.95, 1e-8, 0.1, 10.0, 20.0].map(Into::into));
        let t = Instant::now();
        let r = kernel.launch((n / 1024) as u32, 256, 0, &args).unwrap();
        (t.elapsed().as_secs_f64(), r)
    };
    line("flash forward 1x2 heads, 256 tokens, plain", 0.03, best(|| run_flash(plain())));
    line("flash forward 1x2 heads, 256 tokens, checked", 0.08, best(|| run_flash(checked())));
    line("bf16 GEMM 512^3, plain", 0.2, best(|| run_gemm(plain())));
    line("bf16 GEMM 512^3, checked", f64::INFINITY, best(|| run_gemm(checked())));
    let elementwise = |name: &str, (time, report): (f64, Report)| {
        let limit = report.thread_instructions as f64 / 20e6;
        line(name, limit, (time, report));
    };
    elementwise("RMSNorm 256x1024, checked", best(|| run_rms(checked())));
    elementwise("AdamW 256 k, checked", best(|| run_adamw(checked())));
    elementwise("AdamW 256 k, plain", best(|| run_adamw(plain())));
    two_threads("GEMM plain", |n| run_gemm(plain().threads(n)));
    two_threads("flash checked", |n| run_flash(checked().threads(n)));
    two_threads("AdamW checked", |n| run_adamw(checked().threads(n)));
}
