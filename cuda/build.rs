//! With the feature `embed-kernels`: takes the machine code in `VILA_KERNELS_DIR` into the program.

use std::fmt::Write;
use std::path::{Path, PathBuf};

#[path = "src/manifest.rs"]
mod manifest;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_EMBED_KERNELS").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=src/manifest.rs");
    println!("cargo::rerun-if-env-changed=VILA_KERNELS_DIR");
    if let Err(problem) = embed() {
        println!("cargo::error={problem}");
    }
}

fn embed() -> Result<(), String> {
    let directory = std::env::var_os("VILA_KERNELS_DIR").map(PathBuf::from).ok_or(
        "the feature embed-kernels takes machine code from VILA_KERNELS_DIR: make it with `vila kernels build --out DIR`",
    )?;
    let list = directory.join(manifest::FILE);
    println!("cargo::rerun-if-changed={}", list.display());
    let text = std::fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let entries = manifest::parse(&text).map_err(|error| format!("{}: {error}", list.display()))?;
    let mut code = String::from("pub static EMBEDDED: &[Embedded] = &[\n");
    for manifest::Entry { source, arch, hash, file } in entries {
        let file = directory.join(file);
        let file = file.canonicalize().map_err(|error| format!("{}: {error}", file.display()))?;
        println!("cargo::rerun-if-changed={}", file.display());
        let _ = writeln!(
            code,
            "    Embedded {{ source: {source:?}, arch: {arch:?}, hash: {hash:?}, code: include_bytes!({file:?}) }},"
        );
    }
    code.push_str("];\n");
    let out = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    std::fs::write(Path::new(&out).join("embedded.rs"), code).map_err(|error| error.to_string())
}
