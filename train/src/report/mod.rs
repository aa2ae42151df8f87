//! `vila report`: a run's metrics, checkpoints and samples as one page that needs nothing else.
//!
//! `read` takes the files as they are, `series` makes curves of them that stay light however long the run was,
//! `chart` draws curves, `panels` says which charts there are, `page` puts everything together.

pub(crate) mod chart;
mod events;
pub(crate) mod format;
pub(crate) mod page;
mod panels;
mod read;
pub(crate) mod series;

use std::path::Path;

pub(crate) use page::is_page;
pub use read::ReportError;

/// The page's name in a run's folder.
pub const FILE: &str = "report.html";

/// What a report shows.
pub struct Written {
    /// Steps of the run.
    pub steps: usize,
    /// Titles of its charts.
    pub charts: Vec<&'static str>,
    /// Titles of the charts for which there is no data.
    pub left_out: Vec<&'static str>,
    /// Generations of the model.
    pub samples: usize,
}

/// Writes the report of a run's directory to `output`.
///
/// # Errors
/// [`ReportError`] where the run's files are missing or damaged, or the page cannot be written.
pub fn write(run: &Path, output: &Path) -> Result<Written, ReportError> {
    let run = read::Run::open(run)?;
    let (charts, left_out): (Vec<_>, Vec<_>) = panels::panels(&run).into_iter().partition(panels::Panel::has_data);
    let page = page::page(&run, &charts, &left_out);
    if output.exists() && !page::is_page(output) {
        return Err(ReportError::Foreign { path: output.to_path_buf() });
    }
    vila_files::write(output, page.as_bytes()).map_err(ReportError::io(output))?;
    let titles = |panels: &[panels::Panel]| panels.iter().map(|panel| panel.title).collect();
    let (charts, left_out) = (titles(&charts), titles(&left_out));
    Ok(Written { steps: run.rows.len(), charts, left_out, samples: run.samples.len() })
}
