//! Sending: inner packets in a queue, outer payloads out of it (RFC 9347 §2.2).

use super::{Congestion, Header};
use std::collections::VecDeque;

/// A packet is begun in a payload only where this many octets of it fit: then its length is in the first part, whichever
/// version it is, and the peer never waits for what it does not know the end of.
const LEAST_BEGINNING: usize = 8;

/// The inner packets of one SA that wait to be sent. They lie back to back, as in the data blocks.
#[derive(Debug)]
pub struct Encoder {
    /// What waits begins at `start`.
    octets: Vec<u8>,
    start: usize,
    /// Of the packets that wait, in order. The first may be begun: then it is as long as what is left of it.
    lengths: VecDeque<u16>,
    begun: bool,
    /// Octets it may hold.
    most: usize,
    /// The peer puts packets together again.
    fragments: bool,
}

/// What went into a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filled {
    /// Packets that end in it.
    pub packets: u64,
    /// Octets of packets.
    pub octets: u64,
    /// Packets taken from the queue that no payload of this size can carry whole, where the peer takes no fragments.
    pub too_long: u64,
}

impl Encoder {
    /// Holds up to `most` octets. Without `fragments` the peer said D: "inner packets MUST be sent using a single Data
    /// Block" (RFC 9347 §6.1.4).
    #[must_use]
    pub fn new(fragments: bool, most: usize) -> Self {
        Self {
            octets: Vec::new(),
            start: 0,
            lengths: VecDeque::new(),
            begun: false,
            most,
            fragments,
        }
    }

    /// Whether the peer puts packets together again.
    #[must_use]
    pub const fn fragments(&self) -> bool {
        self.fragments
    }

    /// Room for a packet of `len` octets at the end of the queue: the caller writes it there. `None` if the queue is full.
    pub fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let length = u16::try_from(len).ok().filter(|len| *len != 0)?;
        if self.queued() + len > self.most {
            return None;
        }
        // What was sent makes room when it is the larger half: so each octet moves once at most.
        if self.start > self.octets.len() / 2 && self.octets.len() + len > self.octets.capacity() {
            self.octets.drain(..std::mem::take(&mut self.start));
        }
        let at = self.octets.len();
        self.octets.resize(at + len, 0);
        self.lengths.push_back(length);
        self.octets.get_mut(at..)
    }

    /// Octets that it holds.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Another limit to what it holds. What waits stays.
    pub const fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// Octets that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.octets.len() - self.start
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The first packet has been sent in part.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Octets of data blocks the next payload will hold, of at most `space`.
    #[must_use]
    pub fn next_len(&self, space: usize) -> usize {
        if !self.fragments {
            return self.whole(space).1;
        }
        self.queued().min(space)
    }

    /// How many whole packets fit from the front, and their octets.
    fn whole(&self, space: usize) -> (usize, usize) {
        let (mut count, mut octets) = (0, 0);
        for length in &self.lengths {
            let next = octets + usize::from(*length);
            if next > space {
                break;
            }
            (count, octets) = (count + 1, next);
        }
        (count, octets)
    }

    /// Fills a payload from the queue. What is left is a Pad Data Block. `None` if there is not even room for the header.
    pub fn fill(&mut self, congestion: Option<Congestion>, payload: &mut [u8]) -> Option<Filled> {
        // RFC 9347 §2.2.3: "The BlockOffset MUST be consistent with the remaining size implied by the length field from the
        // fragmented inner packet."
        let rest = self.lengths.front().filter(|_| self.begun);
        let header = Header {
            block_offset: rest.copied().unwrap_or(0),
            congestion,
        };
        let data = header.write(payload)?;
        let mut filled = Filled::default();
        if !self.fragments {
            while self
                .lengths
                .front()
                .is_some_and(|length| usize::from(*length) > data.len())
            {
                self.drop_front();
                filled.too_long += 1;
            }
        }
        let (count, mut octets) = self.whole(data.len());
        filled.packets = count as u64;
        if self.fragments
            && let Some(length) = self.lengths.get(count)
        {
            let part = (data.len() - octets).min(usize::from(*length));
            // The rest of a packet that is begun may be as short as it wants.
            if part >= LEAST_BEGINNING || (count == 0 && self.begun) {
                octets += part;
                let left = usize::from(*length) - part;
                if let Some(length) = self.lengths.get_mut(count) {
                    *length = left as u16;
                }
                self.begun = true;
            } else {
                self.begun = false;
            }
        } else {
            self.begun = false;
        }
        self.lengths.drain(..count);
        let (front, pad) = data.split_at_mut(octets);
        let from = self.octets.get(self.start..self.start + octets)?;
        front.copy_from_slice(from);
        // RFC 9347 §6.1.3.3: type 0, and "Extends to end of the encapsulating packet".
        pad.fill(0);
        self.advance(octets);
        filled.octets = octets as u64;
        Some(filled)
    }

    /// Gives the packets that are not begun to another SA's queue, in order; how many found no room there. A packet that is
    /// begun stays: RFC 9347 §2.2.3: "senders MUST NOT send initial fragments of an inner packet using one SA and
    /// subsequent fragments in a different SA."
    pub fn hand_over(&mut self, to: &mut Self) -> u64 {
        let mut lost = 0;
        let begun = if self.begun { self.lengths.pop_front() } else { None };
        let mut at = self.start + begun.map_or(0, usize::from);
        for length in self.lengths.drain(..) {
            let end = at + usize::from(length);
            match (self.octets.get(at..end), to.room(usize::from(length))) {
                (Some(packet), Some(room)) => room.copy_from_slice(packet),
                _ => lost += 1,
            }
            at = end;
        }
        self.octets.truncate(self.start + begun.map_or(0, usize::from));
        self.lengths.extend(begun);
        lost
    }

    /// Forgets everything; how many packets that were.
    pub fn clear(&mut self) -> u64 {
        let count = self.lengths.len() as u64;
        self.lengths.clear();
        self.octets.clear();
        (self.start, self.begun) = (0, false);
        count
    }

    fn drop_front(&mut self) {
        if let Some(length) = self.lengths.pop_front() {
            self.advance(usize::from(length));
        }
    }

    fn advance(&mut self, octets: usize) {
        self.start += octets;
        if self.start >= self.octets.len() {
            self.octets.clear();
            self.start = 0;
        }
    }
}
