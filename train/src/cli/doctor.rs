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
    let cuda = cuda();
    let facts = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "threads": threads,
        "vector_instructions": vectors(),
        "memory_bytes": memory,
        "devices": cuda.devices,
        "cuda": cuda.facts,
    });
    if arguments.json {
        print_json(&facts)?;
        return Ok(Outcome::Done);
    }
    let memory = memory.map_or("unknown".into(), gib);
    print(&format!(
        "vila {} on {}\ncpu     {threads} threads, {}, {memory} of memory\n{}",
        env!("CARGO_PKG_VERSION"),
        facts["target"].as_str().unwrap_or_default(),
        vectors(),
        cuda.text
    ))?;
    Ok(Outcome::Done)
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// What there is of CUDA: as text, for machines, and the names that `--device` takes.
struct Cuda {
    text: String,
    facts: serde_json::Value,
    devices: Vec<String>,
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Cuda {
    Cuda { text: "cuda    not in this build\n".into(), facts: serde_json::Value::Null, devices: vec!["cpu".into()] }
}

#[cfg(feature = "cuda")]
fn cuda() -> Cuda {
    use std::fmt::Write;
    let survey = vila_cuda::survey();
    let (mut text, mut devices) = (String::new(), vec!["cpu".to_string()]);
    for (index, device) in survey.devices.iter().enumerate() {
        let (major, minor) = device.capability;
        devices.push(format!("cuda:{index}"));
        let _ = writeln!(
            text,
            "cuda:{index}  {}, compute capability {major}.{minor}, {} multiprocessors, {} of memory",
            device.name,
            device.multiprocessors,
            gib(device.memory)
        );
    }
    if survey.devices.is_empty() {
        text.push_str("cuda    no device\n");
    }
    for library in &survey.libraries {
        let _ = match &library.found {
            Ok((path, version)) => writeln!(text, "{:8} {version} at {}", library.name, path.display()),
            Err(reason) => writeln!(text, "{:8} {reason}", library.name),
        };
    }
    let cache = survey.kernel_cache.as_ref().map(|path| path.display().to_string());
    let embedded: Vec<&str> = survey.embedded.iter().copied().collect();
    let _ = writeln!(
        text,
        "kernels kept in {}; inside this program: {}",
        cache.as_deref().unwrap_or("no folder (set HOME or VILA_CACHE_DIR)"),
        if embedded.is_empty() { "none".into() } else { embedded.join(", ") }
    );
    if vila_cuda::kernels::compiler().is_ok() {
        devices.push("emulator".into());
    }
    let libraries: Vec<_> = survey
        .libraries
        .iter()
        .map(|library| match &library.found {
            Ok((path, version)) => {
                json!({ "name": library.name, "path": path.display().to_string(), "version": version })
            }
            Err(reason) => json!({ "name": library.name, "missing": reason }),
        })
        .collect();
    let found: Vec<_> = survey
        .devices
        .iter()
        .map(|device| {
            json!({
                "name": device.name,
                "capability": [device.capability.0, device.capability.1],
                "multiprocessors": device.multiprocessors,
                "memory_bytes": device.memory,
            })
        })
        .collect();
    let facts = json!({ "libraries": libraries, "devices": found, "kernel_cache": cache, "embedded": embedded });
    Cuda { text, facts, devices }
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
