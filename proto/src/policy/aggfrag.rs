//! IP-TFS (RFC 9347): how a child is to be sent, and what two ends agreed on.

use crate::wire::AggfragFlags;
use std::time::Duration;

/// How the outer packets of a child with IP-TFS are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendMode {
    /// When there is something to send, which waits for company at most this long. It hides nothing: it saves packets
    /// (RFC 9347 §2.1 names "increased performance through packet aggregation" and does not define it further).
    Aggregate {
        /// Zero: what was read at once goes together, and nothing waits.
        delay: Duration,
    },
    /// Of one size and at one rate, whatever there is to send (§2.4.1).
    Constant {
        /// Bits a second of outer IP packets.
        rate: u64,
    },
    /// Of one size, at the rate that the path takes (§2.4.2).
    Congestion {
        /// Bits a second of outer IP packets that it never goes below.
        least: u64,
        /// That it never exceeds.
        most: u64,
    },
}

/// IP-TFS as it is configured for a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Iptfs {
    /// How we send.
    pub mode: SendMode,
    /// Octets of an outer IP packet; `None` is what the interface's MTU makes of a full packet.
    pub size: Option<u16>,
    /// Outer packets that may be overtaken by a later one and are waited for (§2.2.3).
    pub reorder_window: u16,
    /// How long (§2.2.3: "using a lost packet timer is RECOMMENDED").
    pub reorder_time: Duration,
    /// We put inner packets together again; else we say D (§6.1.4).
    pub fragments: bool,
    /// Without it there is no Child SA.
    pub required: bool,
}

/// What two ends agreed on for a Child SA pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aggfrag {
    /// How we go about it.
    pub iptfs: Iptfs,
    /// What the peer requires of us.
    pub peer: AggfragFlags,
}

impl SendMode {
    /// As it is called in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Aggregate { .. } => "aggregate",
            Self::Constant { .. } => "constant",
            Self::Congestion { .. } => "congestion",
        }
    }
}

impl Iptfs {
    /// What we require of the peer. RFC 9347 §6.1.4: with C "the sender is requiring that congestion control information MUST be
    /// returned to it periodically".
    #[must_use]
    pub const fn flags(&self) -> AggfragFlags {
        let congestion = matches!(self.mode, SendMode::Congestion { .. });
        AggfragFlags::new(congestion, !self.fragments)
    }
}

impl Aggfrag {
    /// If both want it, and we can do what the peer requires. RFC 9347 §5.1: "If any requirement flags are not understood or
    /// cannot be supported by the receiver, then the receiver SHOULD NOT enable use of AGGFRAG_PAYLOAD".
    #[must_use]
    pub fn agree(iptfs: Option<&Iptfs>, peer: Option<AggfragFlags>) -> Option<Self> {
        let peer = peer.filter(|flags| flags.is_understood())?;
        Some(Self { iptfs: *iptfs?, peer })
    }

    /// Each packet of ours carries congestion information: the peer requires it, or it is to be answered. RFC 9347 §2.4.2: "An
    /// implementation MAY choose to always include the congestion information in its AGGFRAG payload header".
    #[must_use]
    pub const fn informs(&self) -> bool {
        self.peer.congestion_control() || self.iptfs.flags().congestion_control()
    }
}
