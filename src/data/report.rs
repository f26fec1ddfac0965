//! What workers tell control: bounded, and never more than control can hear.

use landbridge_proto::policy::sad::{ChildSaId, SadReport};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often a pair says that it is alive, or that it sent.
const INTERVAL: Duration = Duration::from_secs(1);

/// Takes reports; must not block.
pub type ReportSink = dyn Fn(SadReport) + Send + Sync;

/// What was told about the inbound half of a pair.
#[derive(Debug, Default)]
pub struct InboundReports {
    heard: bool,
    alive: Option<Instant>,
    moved: Option<SocketAddr>,
}

impl InboundReports {
    /// An authentic packet came.
    pub fn heard(&mut self, sink: &ReportSink, now: Instant, id: ChildSaId) {
        if !std::mem::replace(&mut self.heard, true) {
            sink(SadReport::FirstInbound(id));
        }
        if self.alive.is_none_or(|last| now.duration_since(last) >= INTERVAL) {
            self.alive = Some(now);
            sink(SadReport::Alive(id));
        }
    }

    /// The newest authentic packet came from elsewhere than the path says (RFC 7296 §2.23).
    pub fn moved(&mut self, sink: &ReportSink, id: ChildSaId, remote: SocketAddr) {
        if self.moved.replace(remote) != Some(remote) {
            sink(SadReport::PeerMoved { id, remote });
        }
    }
}

/// What was told about the outbound half of a pair.
#[derive(Debug, Default)]
pub struct OutboundReports {
    sent: Option<Instant>,
    soft: bool,
    hard: bool,
}

impl OutboundReports {
    /// Something was sent.
    pub fn sent(&mut self, sink: &ReportSink, now: Instant, id: ChildSaId) {
        if self.sent.is_none_or(|last| now.duration_since(last) >= INTERVAL) {
            self.sent = Some(now);
            sink(SadReport::Sent(id));
        }
    }

    /// A soft limit was reached.
    pub fn soft(&mut self, sink: &ReportSink, id: ChildSaId) {
        if !std::mem::replace(&mut self.soft, true) {
            sink(SadReport::SoftLimit(id));
        }
    }

    /// A hard limit was reached.
    pub fn hard(&mut self, sink: &ReportSink, id: ChildSaId) {
        if !std::mem::replace(&mut self.hard, true) {
            sink(SadReport::HardLimit(id));
        }
    }
}
