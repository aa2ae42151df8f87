use std::sync::mpsc::{Receiver, Sender, channel};

use super::HostCollective;
use super::host::{Call, Head, Lost, Message, Size, Transport};
use crate::Result;

/// One rank among threads of this process.
struct Threads {
    rank: usize,
    to: Vec<Sender<Word>>,
    from: Vec<Peer>,
}

/// A message and its sender's call, or a goodbye.
type Word = std::result::Result<(Call, Message), Lost>;

struct Peer {
    messages: Receiver<Word>,
    last_step: u64,
}

/// The collectives of `world` ranks that are threads of this process, in rank order.
///
/// # Errors
/// None but a thread that could not start.
pub fn threads(world: usize) -> Result<Vec<HostCollective>> {
    let mut ranks: Vec<Threads> = (0..world).map(|rank| Threads { rank, to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..world {
        for to in 0..world {
            let (sender, messages) = channel();
            ranks[from].to.push(sender);
            ranks[to].from.push(Peer { messages, last_step: 0 });
        }
    }
    ranks.into_iter().map(|rank| HostCollective::new(|| Ok(rank))).collect()
}

impl Transport for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.to.len()
    }

    fn all_to_all(&mut self, call: Call, parts: Vec<Message>, sizes: &[Size]) -> Result<Vec<Message>> {
        for (to, part) in self.to.iter().zip(parts) {
            // A rank that is gone shows below, with the last step that it sent.
            let _ = to.send(Ok((call, part)));
        }
        let receive = |(rank, (peer, &size)): (usize, (&mut Peer, &Size))| {
            let silent = |_| Err(Lost { rank, step: peer.last_step, reason: "its thread ended".into() });
            let (theirs, part) = peer.messages.recv().unwrap_or_else(silent)?;
            peer.last_step = theirs.step;
            Head { call: theirs, len: part.len() as u64 }.check(rank, &call, size)?;
            Ok(part)
        };
        self.from.iter_mut().zip(sizes).enumerate().map(receive).collect()
    }

    fn leave(&mut self, lost: &Lost) {
        for to in &self.to {
            // Whoever is gone needs no goodbye.
            let _ = to.send(Err(lost.clone()));
        }
    }
}
