//! The Child SA part of our requests, and what its answer may be.

use crate::ike::child::wanted_aggfrag;
use crate::ike::error::IkeError;
use crate::ike::sa::IkeSa;
use crate::policy::aggfrag::Iptfs;
use crate::policy::connection;
use crate::policy::selector::is_subset;
use crate::wire::message::ChildPayloads;
use crate::wire::{SecurityAssociation, TrafficSelector};

/// TSi and TSr of our offer; the proposals are filled in by the caller.
pub fn offer_selectors(sa: &IkeSa, config: &connection::Child) -> ChildPayloads {
    ChildPayloads {
        sa: SecurityAssociation::default(),
        ts_i: config.local_ts.clone(),
        ts_r: config.remote_ts.clone(),
        transport_mode: sa.transport_fits(config, &config.local_ts, &config.remote_ts),
        no_tfc_padding: false,
        non_first_fragments: false,
        aggfrag: wanted_aggfrag(config, &sa.path).map(Iptfs::flags),
        resource_info: config.pairs > 1,
        additional_ts_possible: false,
    }
}

/// §2.9: the answer may be narrower than the offer, never wider.
pub fn check_selectors(
    config: &connection::Child,
    (ts_i, ts_r): (&[TrafficSelector], &[TrafficSelector]),
    answer: &ChildPayloads,
) -> Result<(), IkeError> {
    let within = |narrowed: &[TrafficSelector], offered: &[TrafficSelector]| {
        !narrowed.is_empty() && is_subset(narrowed, offered)
    };
    if within(&answer.ts_i, ts_i) && within(&answer.ts_r, ts_r) {
        return Ok(());
    }
    Err(IkeError::TsUnacceptable {
        offered_remote: answer.ts_r.clone(),
        offered_local: answer.ts_i.clone(),
        wanted: vec![config.name.to_string()],
    })
}
