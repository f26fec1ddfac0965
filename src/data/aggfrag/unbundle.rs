//! The way in: outer packets taken apart, in their turn.

use crate::data::audit::Audit;
use crate::data::deliver::Place;
use crate::data::inbound::{Fate, Inbound, Receiver, Receiving, event};
use crate::data::report::Nanos;
use crate::data::stats::Cause;
use crate::data::worker::Wakeup;
use crate::sys::receive::Message;
use landbridge_proto::esp::aggfrag::{self, Decoder, Drops, Found, Header};
use landbridge_proto::esp::{NextHeader, Opened};
use landbridge_proto::policy::aggfrag::Aggfrag;
use landbridge_proto::policy::spi;
use landbridge_proto::time::Instant;
use std::ops::Range;
use std::sync::Arc;

/// What a pair with IP-TFS has received and not yet delivered.
pub(in crate::data) struct Unbundle {
    decoder: Decoder,
}

impl Unbundle {
    pub(in crate::data) fn new(agreed: &Aggfrag) -> Self {
        let window = usize::from(agreed.iptfs.reorder_window);
        Self {
            decoder: Decoder::new(window, agreed.iptfs.reorder_time),
        }
    }
}

/// An all-pad payload.
const ALL_PAD: [u8; Header::PLAIN] = [0; Header::PLAIN];

impl Receiving {
    /// Takes what was opened apart; the packets are in `found`, not yet checked against the selectors. False if it is not
    /// for a pair with IP-TFS; that is the caller's to count.
    pub(in crate::data) fn unbundle(
        &mut self,
        opened: &Opened,
        packet: &[u8],
        tos: u8,
        now: Nanos,
        built: &mut Vec<u8>,
        found: &mut Vec<Found>,
    ) -> bool {
        let Some(unbundle) = &mut self.unbundle else {
            return false;
        };
        let payload = match opened.next_header {
            NextHeader::Other(aggfrag::NEXT_HEADER) => packet.get(opened.payload.clone()).unwrap_or_default(),
            // RFC 4303 §2.6: dummies are discarded "without prejudice"; but their turn was theirs.
            NextHeader::Dummy => &ALL_PAD,
            _ => return false,
        };
        let now = Instant::from_nanos(now);
        if let Some(mut control) = self.child.pair.control() {
            let header = Header::read(payload).ok();
            let heard = header.and_then(|(header, _)| header.congestion);
            control.arrived(now, opened.sequence, heard.as_ref());
        }
        let outer = aggfrag::Outer {
            sequence: opened.sequence,
            tos,
            payload,
        };
        unbundle.decoder.take(now, outer, built, found);
        true
    }

    /// When [`Self::overdue`] has something to do.
    pub(in crate::data) fn deadline(&self) -> Option<Nanos> {
        let deadline = self.unbundle.as_ref()?.decoder.deadline();
        deadline.map(Instant::as_nanos)
    }

    /// What was waited for in vain is given up.
    pub(in crate::data) fn overdue(&mut self, now: Nanos, built: &mut Vec<u8>, found: &mut Vec<Found>) {
        if let Some(unbundle) = &mut self.unbundle {
            unbundle.decoder.timeout(Instant::from_nanos(now), built, found);
        }
    }

    /// What came to nothing since this was asked last.
    fn drops(&mut self) -> Drops {
        let unbundle = self.unbundle.as_mut();
        unbundle.map_or_else(Drops::default, |unbundle| unbundle.decoder.drops())
    }
}

impl Inbound {
    /// Some pair waits by time, or did.
    pub(in crate::data) fn is_timed(&self) -> bool {
        self.timed
    }

    /// When [`Self::tick`] has something to do.
    pub(in crate::data) fn deadline(&self) -> Option<Nanos> {
        let waiting = self.receiver.waiting.iter();
        let waiting = waiting.filter_map(|slot| self.own.get(*slot)?.as_ref()?.deadline());
        waiting.min()
    }

    /// What was waited for too long is given up.
    pub(in crate::data) fn tick(&mut self, wakeup: &Wakeup<'_>) {
        let Self { own, receiver, .. } = self;
        let mut waiting = std::mem::take(&mut receiver.waiting);
        waiting.retain(|slot| {
            let Some(Some(receiving)) = own.get_mut(*slot) else {
                return false;
            };
            if receiving.deadline().is_some_and(|deadline| deadline <= wakeup.now) {
                receiving.overdue(wakeup.now, receiver.delivery.built(), &mut receiver.found);
                receiver.count_lost(receiving, wakeup);
                receiver.admit_found(receiving, &mut [], 0, wakeup);
            }
            receiving.deadline().is_some()
        });
        receiver.waiting = waiting;
        receiver.delivery.write(&[], wakeup);
    }
}

impl Receiver {
    /// Takes one ESP packet of a pair with IP-TFS.
    pub(in crate::data) fn take_apart(
        &mut self,
        receiving: &mut Receiving,
        octets: &mut [u8],
        spi: u32,
        place: Range<usize>,
        message: &Message,
        wakeup: &Wakeup<'_>,
    ) -> Fate {
        let Some(packet) = octets.get_mut(place.clone()) else {
            return Fate::Taken;
        };
        let Some(opened) = receiving.open_outer(packet, message, wakeup) else {
            let forged = matches!(receiving.why, Some((Cause::Integrity, _)));
            self.tell_why(receiving, event(spi, packet, message), wakeup);
            return if forged { Fate::NotAuthentic } else { Fate::Taken };
        };
        // RFC 4301 §4.4.2.1: an SA's life is about outer packets, and about octets that the cipher worked on, padding too.
        receiving.spend(opened.payload.len() as u64, wakeup);
        let (built, found) = (self.delivery.built(), &mut self.found);
        found.clear();
        if !receiving.unbundle(&opened, packet, message.tos, wakeup.now, built, found) {
            receiving.dropped::<()>(Cause::NextHeader);
            self.tell_why(receiving, event(spi, packet, message), wakeup);
            return Fate::Taken;
        }
        self.count_lost(receiving, wakeup);
        let slot = spi::slot_of(spi);
        if receiving.deadline().is_some() && !self.waiting.contains(&slot) {
            self.waiting.push(slot);
        }
        self.admit_found(receiving, octets, place.start + opened.payload.start, wakeup);
        Fate::Taken
    }

    /// Counts what came to nothing, and tells of it as of other drops. RFC 9347 §2.4.1: "packet loss should be reported to the
    /// administrator".
    fn count_lost(&mut self, receiving: &mut Receiving, wakeup: &Wakeup<'_>) {
        let drops = receiving.drops();
        if drops == Drops::default() {
            return;
        }
        let child = &receiving.child;
        for (cause, count) in [
            (Cause::AggfragLost, drops.lost),
            (Cause::AggfragLate, drops.late),
            (Cause::AggfragMalformed, drops.malformed),
            (Cause::AggfragIncomplete, drops.incomplete),
        ] {
            if count > 0 {
                child.pair.inbound.dropped(cause, count);
                self.tell(cause, wakeup, || Audit {
                    connection: Some(Arc::clone(&child.entry.connection)),
                    spi: Some(child.entry.inbound.spi),
                    remote: Some(child.path.remote),
                    ..Audit::default()
                });
            }
        }
    }

    /// Delivers the packets found, those in the payload at `start` and those that were built.
    fn admit_found(&mut self, receiving: &mut Receiving, octets: &mut [u8], start: usize, wakeup: &Wakeup<'_>) {
        let mut found = std::mem::take(&mut self.found);
        for Found { place, tos } in found.drain(..) {
            let (place, inner) = match place {
                aggfrag::Place::Payload(range) => {
                    let range = start + range.start..start + range.end;
                    (Place::Batch(range.clone()), octets.get_mut(range))
                }
                aggfrag::Place::Built(range) => (Place::Built(range.clone()), self.delivery.built().get_mut(range)),
            };
            let Some(inner) = inner else { continue };
            if let Some(flow) = receiving.admit(inner, tos, wakeup) {
                let Receiving { child, interface, .. } = &*receiving;
                self.delivery.push(interface, child, &flow, octets, place, wakeup);
            } else if receiving.why.is_some() {
                let spi = receiving.child.entry.inbound.spi;
                let about = Audit {
                    spi: Some(spi),
                    remote: Some(receiving.child.path.remote),
                    ..Audit::default()
                };
                self.tell_why(receiving, about, wakeup);
            }
        }
        self.found = found;
    }
}
