//! Receiving: outer payloads put in order, inner packets found in them (RFC 9347 §2.2.3, §2.5).
//!
//! §2.5 leaves the choice; here payloads are worked on in the order of their sequence numbers, so that inner packets come out
//! in order: "The cost of this method is that a lost packet will cause a delay of up to the lost packet timer interval (or the
//! full reorder window ...)". A payload that comes in its turn is not copied.

use super::{Block, Header, LONGEST};
use crate::time::Instant;
use std::ops::Range;
use std::time::Duration;

/// An outer payload: authentic, and seen for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Outer<'a> {
    /// Of the ESP packet.
    pub sequence: u64,
    /// TOS or traffic class of the outer header.
    pub tos: u8,
    /// All of it.
    pub payload: &'a [u8],
}

/// Where an inner packet is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the payload just given.
    Payload(Range<usize>),
    /// In the buffer given with it.
    Built(Range<usize>),
}

/// An inner packet: as long as its own header says, and not looked at otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its octets.
    pub place: Place,
    /// Of the outer packet it came in; congestion marked on any of several is in it (RFC 3168 §5.3).
    pub tos: u8,
}

/// What became of outer packets, and what came to nothing, since it was asked last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drops {
    /// Outer packets that the window had passed by.
    pub late: u64,
    /// Outer packets with a wrong header, or with something that is no data block.
    pub malformed: u64,
    /// Inner packets of which a part was lost, or that did not go with what came after.
    pub incomplete: u64,
    /// Outer packets that did not come in time, or not at all.
    pub lost: u64,
}

/// The receiving half of one SA.
#[derive(Debug)]
pub struct Decoder {
    /// The sequence number whose turn it is.
    expected: u64,
    /// What came before its turn, by sequence number modulo the window's size.
    early: Vec<Early>,
    waiting: usize,
    patience: Duration,
    partial: Partial,
    drops: Drops,
}

/// A place for a payload that came before its turn.
#[derive(Debug, Default)]
struct Early {
    sequence: u64,
    /// When; `None`: the place is free.
    came: Option<Instant>,
    tos: u8,
    payload: Vec<u8>,
}

/// The inner packet that is being put together.
#[derive(Debug, Default)]
struct Partial {
    octets: Vec<u8>,
    /// Its length, when that is known.
    total: Option<usize>,
    tos: u8,
}

/// Where found packets go.
struct Out<'a> {
    built: &'a mut Vec<u8>,
    found: &'a mut Vec<Found>,
}

impl Decoder {
    /// The longest window: what the octets that wait are bounded by.
    pub const WINDOW_MOST: usize = 256;

    /// Waits for up to `window` payloads that are overtaken, and not longer than `patience` (RFC 9347 §2.2.3: "using a lost
    /// packet timer is RECOMMENDED").
    #[must_use]
    pub fn new(window: usize, patience: Duration) -> Self {
        Self {
            // RFC 4303 §3.3.3: "the first packet sent using a given SA will contain a sequence number of 1."
            expected: 1,
            early: std::iter::repeat_with(Early::default)
                .take(window.min(Self::WINDOW_MOST))
                .collect(),
            waiting: 0,
            patience,
            partial: Partial::default(),
            drops: Drops::default(),
        }
    }

    /// Takes an outer payload. What is found is put at the end of `found`, in order; what is not in `outer.payload` as a whole
    /// is put at the end of `built`.
    pub fn take(&mut self, now: Instant, outer: Outer<'_>, built: &mut Vec<u8>, found: &mut Vec<Found>) {
        let mut out = Out { built, found };
        let window = self.early.len() as u64;
        if outer.sequence < self.expected {
            // "if any older ESP packets whose sequence numbers the window has passed by are received, then the packets are
            // dropped" (§2.2.3).
            self.drops.late += 1;
            return;
        }
        // "Receiving a larger (newer) sequence number packet advances the window" (§2.2.3).
        if outer.sequence - self.expected > window {
            self.pass_by(outer.sequence - window, &mut out);
            self.drain(&mut out);
        }
        if outer.sequence == self.expected {
            self.expected = self.expected.saturating_add(1);
            self.payload(outer.tos, outer.payload, true, &mut out);
            self.drain(&mut out);
            return;
        }
        let index = outer.sequence.checked_rem(window).unwrap_or(0) as usize;
        let Some(place) = self.early.get_mut(index).filter(|place| place.came.is_none()) else {
            return;
        };
        place.sequence = outer.sequence;
        place.came = Some(now);
        place.tos = outer.tos;
        place.payload.clear();
        place.payload.extend_from_slice(outer.payload);
        self.waiting += 1;
    }

    /// When [`Self::timeout`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let came = self.early.iter().filter_map(|place| place.came).min()?;
        Some(came + self.patience)
    }

    /// What has been waited for too long is given up.
    pub fn timeout(&mut self, now: Instant, built: &mut Vec<u8>, found: &mut Vec<Found>) {
        let mut out = Out { built, found };
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            let waiting = self.early.iter().filter(|place| place.came.is_some());
            let Some(first) = waiting.map(|place| place.sequence).min() else {
                return;
            };
            self.pass_by(first, &mut out);
            self.drain(&mut out);
        }
    }

    /// What came to nothing since this was asked last.
    pub fn drops(&mut self) -> Drops {
        std::mem::take(&mut self.drops)
    }

    /// Waits no longer for anything before `sequence`.
    fn pass_by(&mut self, sequence: u64, out: &mut Out<'_>) {
        while self.waiting > 0 && self.expected < sequence {
            if !self.next_early(out) {
                self.lost();
                self.expected += 1;
                self.drops.lost += 1;
            }
        }
        if self.expected < sequence {
            self.lost();
            self.drops.lost = self.drops.lost.saturating_add(sequence - self.expected);
            self.expected = sequence;
        }
    }

    /// What came early and has its turn now.
    fn drain(&mut self, out: &mut Out<'_>) {
        while self.waiting > 0 && self.next_early(out) {}
    }

    fn next_early(&mut self, out: &mut Out<'_>) -> bool {
        let index = self.expected.checked_rem(self.early.len() as u64).unwrap_or(0) as usize;
        let expected = self.expected;
        let ready = |place: &&mut Early| place.came.is_some() && place.sequence == expected;
        let Some(place) = self.early.get_mut(index).filter(ready) else {
            return false;
        };
        place.came = None;
        let (tos, payload) = (place.tos, std::mem::take(&mut place.payload));
        self.waiting -= 1;
        self.expected = self.expected.saturating_add(1);
        self.payload(tos, &payload, false, out);
        if let Some(place) = self.early.get_mut(index) {
            place.payload = payload;
        }
        true
    }

    /// An outer packet is lost: what it had a part of is, too.
    fn lost(&mut self) {
        if self.partial.give_up() {
            self.drops.incomplete += 1;
        }
    }

    /// A payload whose turn it is; `here` means that it is the one just given.
    fn payload(&mut self, tos: u8, payload: &[u8], here: bool, out: &mut Out<'_>) {
        let Ok((header, data)) = Header::read(payload) else {
            self.drops.malformed += 1;
            return self.lost();
        };
        let (offset, base) = (usize::from(header.block_offset), payload.len() - data.len());
        // "When a receiver is reassembling an inner packet, and it receives an "all-pad" payload, it increments the expected
        // sequence number that the next inner packet fragment is expected to arrive in" (§2.2.3). An empty payload (§2.2.4)
        // has no data block either.
        if offset == 0 && data.first().is_none_or(|octet| octet >> 4 == 0) {
            return;
        }
        if !self.partial.octets.is_empty() {
            let part = data.get(..offset.min(data.len())).unwrap_or_default();
            match self.partial.add(tos, part, offset) {
                Some(true) => self.partial.finish(out),
                Some(false) => return,
                // §2.5: "a receiver SHOULD gracefully handle the case where the BlockOffset of consecutive packets, and/or
                // the inner packet they share, do not agree. It MAY drop the inner packet".
                None => self.lost(),
            }
        }
        // What continues a packet whose beginning was lost is passed over: "Having the BlockOffset always point at the next
        // available data block allows for recovering the next inner packet" (§2.2).
        let mut at = offset;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            match Block::read(rest) {
                Block::Pad => return,
                Block::Packet(total) if total <= rest.len() => {
                    let place = if here {
                        Place::Payload(base + at..base + at + total)
                    } else {
                        out.build(rest.get(..total).unwrap_or_default())
                    };
                    out.found.push(Found { place, tos });
                    at += total;
                }
                Block::Packet(_) | Block::Runt => return self.partial.begin(tos, rest),
                Block::Wrong => {
                    self.drops.malformed += 1;
                    return;
                }
            }
        }
    }
}

impl Partial {
    fn begin(&mut self, tos: u8, octets: &[u8]) {
        self.octets.clear();
        self.octets.extend_from_slice(octets);
        self.tos = tos;
        self.total = None;
    }

    /// Adds a part; `left` is what BlockOffset says is left of the packet with it. True when it is whole; `None` if that does
    /// not agree with the packet.
    fn add(&mut self, tos: u8, part: &[u8], left: usize) -> Option<bool> {
        let before = self.octets.len();
        if before + left > LONGEST {
            return None;
        }
        self.octets.extend_from_slice(part);
        if tos & 3 == 3 {
            self.tos |= 3;
        }
        if self.total.is_none() {
            self.total = match Block::read(&self.octets) {
                Block::Packet(total) => Some(total),
                Block::Runt => None,
                Block::Pad | Block::Wrong => return None,
            };
        }
        if self.total.is_some_and(|total| total != before + left) {
            return None;
        }
        let whole = part.len() == left;
        // Where it ends before its length has come, it is no packet.
        if whole && self.total.is_none() {
            return None;
        }
        Some(whole)
    }

    fn finish(&mut self, out: &mut Out<'_>) {
        let place = out.build(&self.octets);
        out.found.push(Found { place, tos: self.tos });
        self.give_up();
    }

    /// Whether there was something.
    fn give_up(&mut self) -> bool {
        let there = !self.octets.is_empty();
        self.octets.clear();
        self.total = None;
        there
    }
}

impl Out<'_> {
    fn build(&mut self, packet: &[u8]) -> Place {
        let start = self.built.len();
        self.built.extend_from_slice(packet);
        Place::Built(start..self.built.len())
    }
}
