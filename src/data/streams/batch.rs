//! Packets that are sealed where they are written to a TCP connection from, many with one write.

use super::super::batch::{Outer, Places};
use super::super::stats::{Cause, Counters};
use super::super::worker::Shared;
use super::Stream;
use landbridge_proto::esp::stream::{LENGTH, LONGEST, length_field};
use landbridge_proto::policy::sad::Path;
use std::sync::Arc;

/// Octets that are gathered before they are written.
const SEND_AT: usize = 64 << 10;

/// What waits to be written to one connection.
pub struct StreamBatch {
    stream: Option<Arc<Stream>>,
    octets: Vec<u8>,
    used: usize,
}

impl StreamBatch {
    /// An empty one. Its memory comes with its first packet.
    pub fn new() -> Self {
        Self {
            stream: None,
            octets: Vec::new(),
            used: 0,
        }
    }

    /// What follows is for this connection.
    pub fn turn_to(&mut self, stream: &Arc<Stream>, shared: &Shared, counters: &Counters) {
        if !self.stream.as_ref().is_some_and(|own| Arc::ptr_eq(own, stream)) {
            self.send(shared, counters);
            self.stream = Some(Arc::clone(stream));
        }
    }

    /// Writes everything. What there is no room for is dropped and counted: IP promises no more.
    pub fn send(&mut self, shared: &Shared, counters: &Counters) {
        let frames = self.octets.get(..std::mem::take(&mut self.used)).unwrap_or_default();
        if let Some(stream) = self.stream.take().filter(|_| !frames.is_empty()) {
            let dropped = stream.send_esp(frames, &shared.sinks);
            if dropped > 0 {
                counters.dropped(Cause::SendFull, dropped as u64);
            }
        }
    }
}

impl Places for StreamBatch {
    fn place(
        &mut self,
        len: usize,
        _path: &Path,
        // RFC 9329 §6.8, §9.3, §9.5: DF, DSCP and ECN are the TCP connection's.
        _outer: Outer,
        shared: &Shared,
        counters: &Counters,
    ) -> Option<&mut [u8]> {
        let Some(length) = length_field(len) else {
            counters.dropped(Cause::SendFailed, 1);
            return None;
        };
        if self.octets.is_empty() {
            self.octets = vec![0; SEND_AT + LENGTH + LONGEST];
        }
        if self.used + LENGTH + len > SEND_AT && self.used > 0 {
            let stream = self.stream.clone();
            self.send(shared, counters);
            self.stream = stream;
        }
        let start = self.used;
        self.used += LENGTH + len;
        let (field, place) = self.octets.get_mut(start..start + LENGTH + len)?.split_at_mut(LENGTH);
        field.copy_from_slice(&length);
        Some(place)
    }
}
