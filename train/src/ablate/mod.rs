//! `vila ablate toy`: the paper's questions asked of the toy world.
//!
//! `grid` lists the cells, `verdict` the findings and the rule that judges them, `chain` says which stages a cell is made
//! of, `lab` runs them, `result` holds numbers, `report` writes them down.

mod chain;
mod grid;
mod lab;
mod report;
mod result;
mod verdict;
mod world;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vila_engine::Backend;

pub use grid::{CELLS, Cell};
pub use result::{CellResult, Evaluation, Spread, StageResult, Summary};
pub use verdict::{Claim, FINDINGS, Finding, Judged, MARGIN, RULE, Value, Verdict, judge, overall};

use crate::run::RunOptions;
use crate::say::say;
use crate::toy::CorpusOptions;
use crate::{Error, Result};
use lab::Lab;
use world::World;

/// What to run.
#[derive(Clone)]
pub struct AblateOptions {
    /// Folder of corpora, stages, results and report.
    pub out: PathBuf,
    /// Seeds; each has corpora and weights of its own.
    pub seeds: Vec<u64>,
    /// Half of every stage's steps; the report calls it smoke.
    pub quick: bool,
    /// How many times as wide models are; 1 on the CPU.
    pub size: usize,
    /// Cells that run at a time.
    pub jobs: usize,
    /// Names of the cells; all if empty.
    pub cells: Vec<String>,
    /// Overrides of every cell's recipe.
    pub sets: Vec<String>,
    /// Most questions of a task.
    pub questions: usize,
    /// Sizes of the corpora; each seed sets its own.
    pub corpus: CorpusOptions,
    /// Documents of text in visual wording.
    pub worded: u64,
    /// The command line, for the report.
    pub command: String,
    /// See [`RunOptions`].
    pub run: RunOptions,
}

impl AblateOptions {
    /// The whole grid under three seeds.
    pub fn new(out: PathBuf) -> Self {
        AblateOptions {
            out,
            seeds: vec![0, 1, 2],
            quick: false,
            size: 1,
            jobs: 1,
            cells: Vec::new(),
            sets: Vec::new(),
            questions: 300,
            corpus: CorpusOptions { views: 6, pairs: 40_000, ..CorpusOptions::default() },
            worded: 5_000,
            command: String::new(),
            run: RunOptions { quiet: true, ..RunOptions::default() },
        }
    }

    fn chosen(&self) -> Result<Vec<&'static Cell>> {
        if let Some(unknown) = self.cells.iter().find(|name| !CELLS.iter().any(|cell| cell.name == *name)) {
            let known: Vec<&str> = CELLS.iter().map(|cell| cell.name).collect();
            return Err(Error::Data(format!("there is no cell `{unknown}`; there are {}", known.join(", "))));
        }
        Ok(CELLS
            .iter()
            .filter(|cell| self.cells.is_empty() || self.cells.iter().any(|name| name == cell.name))
            .collect())
    }
}

/// What came out.
pub struct Ablated {
    /// One result per cell and seed.
    pub results: Vec<CellResult>,
    /// Findings and how they stand.
    pub verdicts: Vec<(&'static Finding, Verdict)>,
    /// The page.
    pub page: PathBuf,
    /// The same for machines.
    pub json: PathBuf,
}

/// Runs the grid, or the rest of it, and writes the report. `open` opens a device for each cell that runs at a time.
///
/// # Errors
/// Those of training, of the first cell that failed; the others' results stay. [`Error::Interrupted`] after a signal: the same
/// command continues.
pub fn ablate(options: &AblateOptions, open: &(dyn Fn() -> Result<Arc<dyn Backend>> + Sync)) -> Result<Ablated> {
    let cells = options.chosen()?;
    let folder = options.out.join("cells");
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let lab = Lab::new(options)?;
    // Seeds alternate, so that cells side by side seldom wait for each other's stages.
    let work: Vec<(&Cell, &World)> =
        cells.iter().flat_map(|cell| lab.worlds.iter().map(move |world| (*cell, world))).collect();
    let results = run_all(&lab, &work, open)?;
    report::write(options, &results)
}

/// Results in the order of the work.
fn run_all(
    lab: &Lab,
    work: &[(&Cell, &World)],
    open: &(dyn Fn() -> Result<Arc<dyn Backend>> + Sync),
) -> Result<Vec<CellResult>> {
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (results, failed) = (Mutex::new(Vec::new()), Mutex::new(None));
    let jobs = lab.options.jobs.clamp(1, work.len().max(1));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(jobs);
    let job = || -> Result<()> {
        let backend = open()?;
        while let Some((index, (cell, world))) = take(&next, work) {
            if failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                break;
            }
            let result = lab.run(cell, world, &backend)?;
            let finished = finished.fetch_add(1, Ordering::Relaxed) + 1;
            say(format_args!("{} of {}: {}, seed {}", finished, work.len(), cell.name, world.seed));
            results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
        Ok(())
    };
    let run = || {
        // Ops of one cell share its own threads, so that cells do not take each other's.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let outcome = match pool {
            Ok(pool) => pool.install(job),
            Err(error) => Err(Error::Data(format!("threads could not be started: {error}"))),
        };
        if let Err(error) = outcome {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(run))));
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn take<T: Copy>(next: &AtomicUsize, work: &[T]) -> Option<(usize, T)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    work.get(index).map(|item| (index, *item))
}
