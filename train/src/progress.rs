//! What a person sees while a stage runs: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::say::say;

/// Progress of one stage.
pub struct Progress {
    name: String,
    total: u64,
    done_before: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

/// Seconds between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// Starts at step `done` of `total`.
    pub fn new(name: &str, done: u64, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_position(done);
            let style = ProgressStyle::with_template("{prefix:>10} [{bar:30}] {pos}/{len} {msg} left {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_string());
            bar
        });
        let now = Instant::now();
        Progress { name: name.to_string(), total, done_before: done, started: now, last_line: now, bar }
    }

    /// Says something beside the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(line),
        }
    }

    /// Shows that `step` steps are done.
    pub fn show(&mut self, step: u64, loss: f64, tokens_per_second: f64) {
        let message = format!("loss {loss:.4} {tokens_per_second:.0} tokens/s");
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(message);
            if step == self.total {
                bar.finish();
            }
        } else if step == self.total || self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let per_step = self.started.elapsed().as_secs_f64() / (step - self.done_before).max(1) as f64;
            let left = per_step * (self.total - step) as f64;
            say(format_args!("{} step {step}/{} {message} left {left:.0} s", self.name, self.total));
        }
    }
}
