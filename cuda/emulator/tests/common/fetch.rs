//! Fetches NVIDIA's run-time compiler for tests: the wheel from the Python package index, unpacked below `target/nvrtc`.

use std::path::{Path, PathBuf};
use std::process::Command;

pub const VERSION: &str = "13.0.88";

/// The folder of the workspace's lock file.
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|folder| folder.join("Cargo.lock").exists());
    root.unwrap_or(package).to_path_buf()
}

/// Fetches the wheel once.
pub fn fetch() -> Result<(), String> {
    let target = workspace().join("target");
    let done = target.join("nvrtc");
    // Several test programs may come here at once: each works in a directory of its own.
    let work = target.join(format!("nvrtc.{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| e.to_string())?;
    let run = |args: &[&str]| -> Result<(), String> {
        let out =
            Command::new("python3").args(args).current_dir(&work).output().map_err(|e| format!("python3: {e}"))?;
        if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).trim().to_string()) }
    };
    let package = format!("nvidia-cuda-nvrtc=={VERSION}");
    let result = run(&["-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", &package]).and_then(|()| {
        let wheel = std::fs::read_dir(&work)
            .map_err(|e| e.to_string())?
            .filter_map(|f| f.ok()?.file_name().into_string().ok())
            .find(|f| f.ends_with(".whl"))
            .ok_or("pip left no wheel")?;
        run(&["-m", "zipfile", "-e", &wheel, "unpacked"])?;
        match std::fs::rename(work.join("unpacked"), &done) {
            Ok(()) => Ok(()),
            Err(_) if done.exists() => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    });
    let _ = std::fs::remove_dir_all(&work);
    result
}
