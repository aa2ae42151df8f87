//! Signals that ask the program to stop. Long work looks at them between its pieces, saves what is to be saved, and ends with
//! 128 and the signal's number.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXCPU, SIGXFSZ};

/// The number of the signal that came last, or 0.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// A signal of this number asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped by signal {0}")]
pub struct Stopped(pub usize);

/// A flag that signals set to their number from now on: those of a person or a scheduler, and those of limits on time and
/// file sizes. A second SIGINT or SIGTERM ends the program at once; the others may come in numbers.
///
/// # Errors
/// The system accepts no handler.
pub fn listen() -> io::Result<Arc<AtomicUsize>> {
    for signal in [SIGINT, SIGTERM] {
        let armed = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))?;
        signal_hook::flag::register(signal, armed)?;
    }
    // `nohup` has SIGHUP ignored, which must stay so. With a handler for SIGXFSZ, a write beyond the limit is an error.
    let others = [SIGINT, SIGTERM, SIGXCPU, SIGXFSZ].into_iter().chain((!is_ignored(SIGHUP)).then_some(SIGHUP));
    for signal in others {
        signal_hook::flag::register_usize(signal, Arc::clone(&SIGNAL), signal as usize)?;
    }
    Ok(Arc::clone(&SIGNAL))
}

/// Fails once a signal has come since [`listen`].
pub(crate) fn check() -> Result<(), Stopped> {
    match SIGNAL.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(Stopped(signal)),
    }
}

/// Whether whoever started this process wants it to ignore a signal; no, where the system does not tell.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}
