use std::path::PathBuf;

use clap::{Args, Subcommand};
use vila_cuda::{kernels, offline};

use super::{Failure, Outcome, Usage, print};

#[derive(Subcommand)]
pub(super) enum KernelsCommand {
    /// Compiles every kernel to machine code, for a build with the feature `embed-kernels`.
    Build(BuildArguments),
    /// Compiles every kernel for sm_80 and sm_90a and fails on spills, and with the compiler that budgets are of on
    /// warnings and budgets that are exceeded.
    Check(CheckArguments),
}

#[derive(Args)]
pub(super) struct BuildArguments {
    /// Architectures; from Hopper on with their own instructions: sm_90a, sm_100a, sm_120a.
    #[arg(long, value_delimiter = ',', default_value = "sm_80,sm_90a")]
    arch: Vec<String>,
    /// Where the files go.
    #[arg(long, default_value = "kernels")]
    out: PathBuf,
}

#[derive(Args)]
pub(super) struct CheckArguments {
    /// Also writes the table of all kernels.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

pub(super) fn run(command: KernelsCommand) -> Result<Outcome, Failure> {
    match command {
        KernelsCommand::Build(arguments) => build(&arguments),
        KernelsCommand::Check(arguments) => check(&arguments),
    }
}

fn build(arguments: &BuildArguments) -> Result<Outcome, Failure> {
    let digits = |arch: &str| arch.strip_prefix("sm_").map(|rest| rest.trim_end_matches(['a', 'f']).parse::<u32>());
    if let Some(wrong) = arguments.arch.iter().find(|arch| !matches!(digits(arch), Some(Ok(80..)))) {
        return Err(
            Usage(format!("--arch {wrong}: architectures are named sm_80, sm_90a and so on, from sm_80 up")).into()
        );
    }
    std::fs::create_dir_all(&arguments.out).map_err(crate::Error::io(&arguments.out))?;
    let files = kernels::build(&arguments.arch, &arguments.out)?;
    // The build script runs in another folder.
    let out = arguments.out.canonicalize().map_err(crate::Error::io(&arguments.out))?;
    let out = out.display();
    print(&format!(
        "{} files in {out}; build with VILA_KERNELS_DIR={out} cargo build --release --features embed-kernels\n",
        files.len()
    ))?;
    Ok(Outcome::Done)
}

fn check(arguments: &CheckArguments) -> Result<Outcome, Failure> {
    let report = offline::check()?;
    if let Some(path) = &arguments.markdown {
        vila_files::write(path, report.markdown().as_bytes()).map_err(crate::Error::io(path))?;
    }
    let kernels: usize = report.files.iter().map(|file| file.instances.len()).sum();
    print(&format!("{kernels} kernels in {} files\n", report.files.len()))?;
    if report.compiler != offline::COMPILER {
        let ((major, minor), (own, own_minor)) = (report.compiler, offline::COMPILER);
        print(&format!(
            "NVRTC {major}.{minor}: budgets are of NVRTC {own}.{own_minor}, so what it does differently is no fault; differences: {}\n",
            report.notes.len()
        ))?;
        report.notes.iter().try_for_each(|note| print(&format!("{note}\n")))?;
    }
    if report.problems.is_empty() {
        return Ok(Outcome::Done);
    }
    Err(format!("{} problems:\n{}", report.problems.len(), report.problems.join("\n")).into())
}
