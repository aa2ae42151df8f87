//! A fault before it is dressed up with names and lines.

use crate::error::{AccessKind, FaultKind};

/// Number of an instruction in its module.
pub(crate) type Site = u32;

/// The earlier of two accesses.
#[derive(Clone, Debug)]
pub(crate) struct Earlier {
    pub kind: AccessKind,
    /// Thread in the block, `None` for several lanes.
    pub thread: Option<usize>,
    pub warp: usize,
    pub site: Site,
    /// Block, if not the one at hand.
    pub block: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) enum Cause {
    Fault(FaultKind),
    Race { shared: bool, address: u64, kind: AccessKind, earlier: Earlier },
    InFlight { offset: u64, kind: AccessKind, earlier: Earlier },
    ProxyFence { offset: u64, earlier: Earlier },
}

#[derive(Clone, Debug)]
pub(crate) struct Trip(pub Box<Cause>);

impl Trip {
    pub(crate) fn new(kind: FaultKind) -> Trip {
        Trip(Box::new(Cause::Fault(kind)))
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Trip {
        Trip::new(FaultKind::Invalid(what.into()))
    }

    pub(crate) fn race(
        offset: usize,
        kind: AccessKind,
        first: AccessKind,
        thread: Option<usize>,
        warp: usize,
        site: Site,
    ) -> Trip {
        let earlier = Earlier { kind: first, thread, warp, site, block: None };
        Trip(Box::new(Cause::Race { shared: true, address: offset as u64, kind, earlier }))
    }

    pub(crate) fn uninitialised(offset: usize, kind: AccessKind) -> Trip {
        Trip::new(FaultKind::UninitialisedShared { kind, offset: offset as u64 })
    }

    pub(crate) fn in_flight(offset: usize, kind: AccessKind, thread: usize, site: Site) -> Trip {
        let earlier =
            Earlier { kind: AccessKind::AsyncWrite, thread: Some(thread), warp: thread / 32, site, block: None };
        Trip(Box::new(Cause::InFlight { offset: offset as u64, kind, earlier }))
    }

    pub(crate) fn missing_proxy_fence(offset: usize, thread: usize, site: Site) -> Trip {
        let earlier = Earlier { kind: AccessKind::Write, thread: Some(thread), warp: thread / 32, site, block: None };
        Trip(Box::new(Cause::ProxyFence { offset: offset as u64, earlier }))
    }
}

impl From<FaultKind> for Trip {
    fn from(k: FaultKind) -> Trip {
        Trip::new(k)
    }
}
