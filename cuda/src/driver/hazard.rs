//! Which command may touch which memory: vector clocks over streams, one component per stream.
//!
//! Orders come from a stream's own queue, from events, and from the host, which orders what it enqueues after what it has
//! waited for. Two accesses to the same bytes, one of them a write, must be ordered.

use std::collections::HashMap;

use super::{Access, Error, Result, Span, Stream};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Clock(HashMap<u32, u64>);

impl Clock {
    pub(super) fn join(&mut self, other: &Clock) {
        for (&stream, &time) in &other.0 {
            let mine = self.0.entry(stream).or_default();
            *mine = time.max(*mine);
        }
    }

    fn has_seen(&self, stream: u32, time: u64) -> bool {
        self.0.get(&stream).is_some_and(|&seen| seen >= time)
    }
}

struct Use {
    span: Span,
    access: Access,
    stream: u32,
    time: u64,
    by: String,
}

/// The order of all commands so far and who touched what last.
#[derive(Default)]
pub(super) struct Order {
    streams: HashMap<u32, Clock>,
    host: Clock,
    uses: Vec<Use>,
}

impl Order {
    /// A new command of `stream`: returns its time.
    pub(super) fn advance(&mut self, stream: Stream) -> u64 {
        let host = self.host.clone();
        let clock = self.streams.entry(stream.0).or_default();
        clock.join(&host);
        let time = clock.0.entry(stream.0).or_default();
        *time += 1;
        *time
    }

    pub(super) fn now(&self, stream: Stream) -> Clock {
        self.streams.get(&stream.0).cloned().unwrap_or_default()
    }

    pub(super) fn wait(&mut self, stream: Stream, event: &Clock) {
        self.streams.entry(stream.0).or_default().join(event);
    }

    pub(super) fn host_waited(&mut self, clock: &Clock) {
        self.host.join(clock);
        let host = &self.host;
        self.uses.retain(|earlier| !host.has_seen(earlier.stream, earlier.time));
    }

    /// Notes that the newest command of `stream` touches `span`.
    pub(super) fn touch(&mut self, stream: Stream, span: Span, access: Access, by: &str) -> Result<()> {
        let clock = self.streams.entry(stream.0).or_default();
        let time = clock.0.get(&stream.0).copied().unwrap_or_default();
        let conflict = self.uses.iter().find(|earlier| {
            (access == Access::Write || earlier.access == Access::Write)
                && earlier.span.overlaps(span)
                && !clock.has_seen(earlier.stream, earlier.time)
        });
        if let Some(earlier) = conflict {
            return Err(Error::Hazard(format!(
                "{by} on stream {} {} bytes at {:#x} that {} on stream {} {} without an event between them; record an event \
                 after {} and let stream {} wait for it",
                stream.0,
                verb(access),
                span.ptr.0,
                earlier.by,
                earlier.stream,
                verb(earlier.access),
                earlier.by,
                stream.0
            )));
        }
        if access == Access::Write {
            // Ordered before this write, and whoever is ordered after it is ordered after them.
            let range = span.range();
            self.uses.retain(|earlier| {
                let inside = earlier.span.range();
                !(range.start <= inside.start && inside.end <= range.end)
            });
        }
        // Whoever is ordered after the newer of two equal uses of a stream is ordered after both.
        self.uses.retain(|earlier| (earlier.span, earlier.access, earlier.stream) != (span, access, stream.0));
        self.uses.push(Use { span, access, stream: stream.0, time, by: by.to_string() });
        Ok(())
    }

    /// A command that the host has not waited for and that must be over before the host does this to `span`; its name.
    pub(super) fn pending(&self, span: Span, access: Access) -> Option<&str> {
        let conflict = |earlier: &&Use| {
            earlier.span.overlaps(span) && (access == Access::Write || earlier.access == Access::Write)
        };
        self.uses.iter().find(conflict).map(|earlier| earlier.by.as_str())
    }
}

fn verb(access: Access) -> &'static str {
    match access {
        Access::Read => "reads",
        Access::Write => "writes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DevicePtr;

    #[test]
    fn what_is_used_again_and_again_is_kept_once() {
        let span = |ptr| Span { ptr: DevicePtr(ptr), bytes: 16 };
        let mut order = Order::default();
        for _ in 0..100 {
            order.advance(Stream(0));
            order.touch(Stream(0), span(0), Access::Read, "a reader").expect("in order");
            order.touch(Stream(0), span(64), Access::Write, "a writer").expect("in order");
        }
        assert_eq!(order.uses.len(), 2);
        order.advance(Stream(1));
        order.touch(Stream(1), span(0), Access::Write, "another").expect_err("the last read is still known");
    }
}
