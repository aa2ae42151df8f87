//! Faults on purpose, so that tests can see what a run does about them. Debug builds only: a release build ignores them.
//!
//! `VILA_FAULT=POINT#N=ACTION` makes the `N`-th passing of a point (from 1) kill the process, report a full disk, damage what
//! is being written, or spoil a loss. Several are separated by commas.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process dies as if killed from outside.
    Kill,
    /// The disk is full.
    NoSpace,
    /// A byte that was written is changed behind the program's back.
    Damage,
    /// A number becomes NaN.
    Nan,
    /// A number becomes very large.
    Spike,
    /// Half a second passes.
    Slow,
}

/// Before a checkpoint's directory is made.
pub const SAVE_BEGIN: &str = "save.begin";
/// Before each write to a file of a checkpoint; half of it is done if the action is to die or to report a full disk.
pub const SAVE_WRITE: &str = "save.write";
/// Before each flush of a file or directory.
pub const SAVE_FLUSH: &str = "save.flush";
/// Before an older directory of the same name moves out of the way.
pub const SAVE_DISPLACE: &str = "save.displace";
/// Before the finished directory gets its name.
pub const SAVE_RENAME: &str = "save.rename";
/// Before `latest` is switched.
pub const SAVE_LATEST: &str = "save.latest";
/// Before each removal of an old checkpoint.
pub const SAVE_PRUNE: &str = "save.prune";
/// When a save is over.
pub const SAVE_DONE: &str = "save.done";
/// Before each line of `metrics.jsonl`.
pub const METRICS_WRITE: &str = "metrics.write";
/// The loss of a step, before its update.
pub const STEP_LOSS: &str = "step.loss";

/// Every point.
pub const POINTS: [&str; 10] = [
    SAVE_BEGIN,
    SAVE_WRITE,
    SAVE_FLUSH,
    SAVE_DISPLACE,
    SAVE_RENAME,
    SAVE_LATEST,
    SAVE_PRUNE,
    SAVE_DONE,
    METRICS_WRITE,
    STEP_LOSS,
];

static PASSED: Mutex<Option<HashMap<String, u64>>> = Mutex::new(None);

/// What is to happen at this passing of `point`, if anything.
pub fn hit(point: &str) -> Option<Action> {
    if !cfg!(debug_assertions) {
        return None;
    }
    let plan = std::env::var("VILA_FAULT").ok()?;
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let count = passed.get_or_insert_default().entry(point.to_string()).or_default();
    *count += 1;
    plan.split(',').filter_map(planned).find(|(name, at, _)| *name == point && at == count).map(|(.., action)| action)
}

fn planned(fault: &str) -> Option<(&str, u64, Action)> {
    let (place, action) = fault.trim().split_once('=')?;
    let (point, at) = place.split_once('#').unwrap_or((place, "1"));
    let action = match action {
        "kill" => Action::Kill,
        "enospc" => Action::NoSpace,
        "damage" => Action::Damage,
        "nan" => Action::Nan,
        "spike" => Action::Spike,
        "slow" => Action::Slow,
        _ => return None,
    };
    Some((point, at.parse().ok()?, action))
}

/// Passes a point at which nothing but dying or a full disk can happen.
pub fn pass(point: &str) -> io::Result<()> {
    match hit(point) {
        Some(Action::Kill) => die(),
        Some(Action::NoSpace) => Err(no_space()),
        Some(Action::Slow) => {
            std::thread::sleep(std::time::Duration::from_millis(500));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Dies without any last word.
pub fn die() -> ! {
    let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
    std::process::abort()
}

/// What the system says of a full disk.
pub fn no_space() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        assert_eq!(planned("save.write#3=enospc"), Some(("save.write", 3, Action::NoSpace)));
        assert_eq!(planned(" step.loss=nan"), Some(("step.loss", 1, Action::Nan)));
        assert_eq!([planned("x"), planned("x#y=kill"), planned("x=boom")], [None; 3]);
    }
}
