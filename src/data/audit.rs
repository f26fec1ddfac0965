//! Auditable events (RFC 4303 §4, RFC 4301 §5.2): packets that were dropped, with SPI, addresses and sequence number. They
//! are told once in ten seconds for each cause and worker, so that nobody fills the log; the counters have them all.

use super::report::{Nanos, SECOND};
use super::stats::Cause;
use super::worker::Wakeup;
use landbridge_proto::ip::flow::FlowKey;
use landbridge_proto::policy::sad::ConnectionName;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Between two of a kind.
const PAUSE: Nanos = 10 * SECOND;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    /// Its name, as in the counters.
    pub cause: &'static str,
    /// Whose, when known.
    pub connection: Option<ConnectionName>,
    /// Of the SA, or as in the packet.
    pub spi: Option<u32>,
    /// As in the packet: the low half.
    pub sequence: Option<u32>,
    /// From where it came.
    pub remote: Option<SocketAddr>,
    /// To which address of ours.
    pub local: Option<IpAddr>,
    /// The inner packet, where it was seen.
    pub inner: Option<FlowKey>,
    /// Events of this kind since the last one that was told.
    pub untold: u64,
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dropped ({})", self.cause)?;
        if let Some(spi) = self.spi {
            write!(f, ", SPI {spi:#010x}")?;
        }
        if let Some(sequence) = self.sequence {
            write!(f, ", sequence number {sequence}")?;
        }
        if let Some(remote) = self.remote {
            write!(f, ", from {remote}")?;
        }
        if let Some(local) = self.local.filter(|local| !local.is_unspecified()) {
            write!(f, " to {local}")?;
        }
        if let Some(FlowKey {
            source,
            destination,
            protocol,
            ..
        }) = self.inner
        {
            write!(f, ", inner packet {source} -> {destination}, protocol {protocol}")?;
        }
        match self.untold {
            0 => Ok(()),
            more => write!(f, "; {more} more of the kind before"),
        }
    }
}

/// One worker's memory of what it told.
#[derive(Clone, Debug, Default)]
pub(super) struct Auditor {
    kinds: [Kind; Cause::COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    next: Nanos,
    untold: u64,
}

impl Auditor {
    /// Tells an event, or only counts it.
    pub(super) fn tell(&mut self, cause: Cause, wakeup: &Wakeup<'_>, event: impl FnOnce() -> Audit) {
        if let Some(untold) = self.due(cause, wakeup.now) {
            (wakeup.shared.sinks.audit)(Audit {
                cause: cause.name(),
                untold,
                ..event()
            });
        }
    }

    /// How many were not told before, if it is time again.
    fn due(&mut self, cause: Cause, now: Nanos) -> Option<u64> {
        let kind = self.kinds.get_mut(cause as usize)?;
        if now < kind.next {
            kind.untold += 1;
            return None;
        }
        kind.next = now + PAUSE;
        Some(std::mem::take(&mut kind.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landbridge_proto::ip::flow::Ports;

    #[test]
    fn each_kind_is_told_once_in_ten_seconds() {
        let mut auditor = Auditor::default();
        let told = |auditor: &mut Auditor, cause, now| auditor.due(cause, now);
        assert_eq!(told(&mut auditor, Cause::Replayed, 0), Some(0));
        assert_eq!(told(&mut auditor, Cause::Integrity, 1), Some(0), "another kind");
        for now in 1..100 {
            assert_eq!(told(&mut auditor, Cause::Replayed, now * SECOND / 10), None);
        }
        assert_eq!(told(&mut auditor, Cause::Replayed, PAUSE), Some(99));
        assert_eq!(told(&mut auditor, Cause::Replayed, 2 * PAUSE), Some(0));
    }

    #[test]
    fn it_says_what_the_rfc_asks_for() {
        let audit = Audit {
            cause: "selector_in",
            spi: Some(0x55),
            sequence: Some(7),
            remote: Some(([192, 0, 2, 1], 4500).into()),
            local: Some([192, 0, 2, 2].into()),
            inner: Some(FlowKey {
                source: [10, 9, 0, 1].into(),
                destination: [10, 2, 0, 1].into(),
                protocol: 6,
                ports: Ports::Opaque,
            }),
            untold: 3,
            connection: None,
        };
        assert_eq!(
            audit.to_string(),
            "dropped (selector_in), SPI 0x00000055, sequence number 7, from 192.0.2.1:4500 to 192.0.2.2, inner packet \
             10.9.0.1 -> 10.2.0.1, protocol 6; 3 more of the kind before"
        );
    }
}
