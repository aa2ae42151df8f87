use clap::Args;
use serde_json::json;

use super::{Failure, Outcome, print, print_json};

#[derive(Args)]
pub(super) struct DoctorArguments {
    /// Machine-readable results on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

pub(super) fn doctor(arguments: &DoctorArguments) -> Result<Outcome, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = memory_bytes();
    let facts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "threads": threads,
        "vector_instructions": vectors(),
        "memory_bytes": memory,
        "devices": ["cpu"],
    });
    if arguments.json {
        print_json(&facts)?;
        return Ok(Outcome::Done);
    }
    let memory = memory.map_or("unknown".into(), |bytes| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64));
    print(&format!(
        "vila {} on {}\ncpu     {threads} threads, {}, {memory} of memory\ncuda    not in this build\n",
        env!("CARGO_PKG_VERSION"),
        facts["target"].as_str().unwrap_or_default(),
        vectors()
    ))?;
    Ok(Outcome::Done)
}

/// The widest vector instructions that the fast path uses here.
fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return "AVX2";
        }
    }
    "baseline vectors"
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
