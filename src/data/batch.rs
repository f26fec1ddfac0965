//! The send batch: datagrams are sealed in the place that the kernel reads from. Datagrams that follow each other to one
//! address with one TOS and one size (the last may be shorter) become one message with UDP_SEGMENT.

use super::stats::{Cause, Counters};
use super::worker::Shared;
use crate::sys::poll::wait_writable;
use crate::sys::transmit::{MAX_OCTETS, MAX_SEGMENTS, Outgoing, TransmitBatch};
use crate::sys::udp::set_dont_fragment;
use landbridge_proto::policy::sad::Path;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Octets that are gathered before they are sent: enough for a message that is as long as can be, and no more, so that
/// what was sealed is still in the cache when the kernel copies it.
const SEND_AT: usize = 64 << 10;
/// Messages in a batch.
const MESSAGES: usize = 64;
/// How long a full socket buffer may hold a worker up before the batch is dropped.
const PATIENCE: Duration = Duration::from_millis(10);

/// What waits to be sent by one socket.
pub(super) struct SendBatch {
    socket: OwnedFd,
    /// A raw socket: no ports, and no UDP_SEGMENT.
    raw: bool,
    /// What the socket has at the moment.
    dont_fragment: bool,
    octets: Vec<u8>,
    used: usize,
    messages: Vec<Outgoing>,
    /// The last message may take more.
    open: bool,
    system: TransmitBatch,
    /// UDP_SEGMENT is used for datagrams shorter than this; 0 when it is off.
    segment_below: usize,
}

impl SendBatch {
    /// By a UDP socket.
    pub(super) fn udp(socket: OwnedFd, segmentation: bool) -> Self {
        Self::new(socket, false, segmentation)
    }

    /// By a raw socket.
    pub(super) fn raw(socket: OwnedFd) -> Self {
        Self::new(socket, true, false)
    }

    fn new(socket: OwnedFd, raw: bool, segmentation: bool) -> Self {
        Self {
            socket,
            raw,
            dont_fragment: false,
            // A batch is sent before it begins a message beyond SEND_AT.
            octets: vec![0; SEND_AT + MAX_OCTETS],
            used: 0,
            messages: Vec::with_capacity(MESSAGES),
            open: false,
            system: TransmitBatch::new(MESSAGES),
            segment_below: if segmentation { usize::MAX } else { 0 },
        }
    }

    fn joins(&self, len: usize, path: &Path, outer: Outer) -> bool {
        let Some(message) = self.messages.last() else {
            return false;
        };
        self.open
            && len <= message.segment
            && message.len + len <= MAX_OCTETS
            && message.len < message.segment * MAX_SEGMENTS
            && message.remote == path.remote
            && message.local == path.local.ip()
            && message.tos == outer.tos
            && message.dont_fragment == outer.dont_fragment
    }

    /// Sends everything. What can't be sent is dropped and counted: IP promises no more, and a worker never waits long.
    pub(super) fn send(&mut self, shared: &Shared, counters: &Counters) {
        let mut sent = 0;
        let mut waited = false;
        let mut tried_again = false;
        while let Some(rest) = self.messages.get(sent..).filter(|rest| !rest.is_empty()) {
            let dont_fragment = rest[0].dont_fragment;
            let alike = rest
                .iter()
                .take_while(|next| next.dont_fragment == dont_fragment)
                .count();
            let run = &rest[..alike];
            // DF is the socket's, and nobody else sends by it. A connection's policy seldom changes within a batch.
            if self.dont_fragment != dont_fragment && set_dont_fragment(&self.socket, dont_fragment).is_ok() {
                self.dont_fragment = dont_fragment;
            }
            match self.system.send(&self.socket, &self.octets, run) {
                Ok(count) => sent += count.max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if full(&error) => {
                    if waited || !wait_writable(&self.socket, PATIENCE) {
                        let lost: usize = rest.iter().map(|message| message.singles().count()).sum();
                        counters.dropped(Cause::SendFull, lost as u64);
                        break;
                    }
                    waited = true;
                }
                // What an ICMP error left behind: it says nothing about this packet.
                Err(_) if self.raw && !tried_again => tried_again = true,
                Err(error) => {
                    let message = rest[0];
                    if message.is_segmented() {
                        self.degrade(&error, &message, shared);
                        self.send_singly(&message, counters);
                    } else {
                        counters.dropped(Cause::SendFailed, 1);
                    }
                    sent += 1;
                }
            }
        }
        self.messages.clear();
        self.used = 0;
        self.open = false;
    }

    fn send_singly(&mut self, message: &Outgoing, counters: &Counters) {
        for single in message.singles() {
            let result = self.system.send(&self.socket, &self.octets, &[single]);
            let result = match result {
                Err(error) if full(&error) && wait_writable(&self.socket, PATIENCE) => {
                    self.system.send(&self.socket, &self.octets, &[single])
                }
                result => result,
            };
            match result {
                Ok(_) => {}
                Err(error) if full(&error) => counters.dropped(Cause::SendFull, 1),
                Err(_) => counters.dropped(Cause::SendFailed, 1),
            }
        }
    }

    /// A message with UDP_SEGMENT was refused. EIO: the device has no checksum offload; that does not change. EINVAL and
    /// EMSGSIZE: no UDP_SEGMENT here, or the datagrams exceed the device's MTU (then IP fragments them one by one).
    /// Anything else (no route, a firewall) has nothing to do with it.
    fn degrade(&mut self, error: &io::Error, message: &Outgoing, shared: &Shared) {
        self.segment_below = match error.raw_os_error() {
            Some(libc::EIO) => 0,
            // Whatever is refused at this size says that it is not the MTU: every path carries 576 octets.
            Some(libc::EINVAL | libc::EMSGSIZE) if message.segment <= 548 => 0,
            Some(libc::EINVAL | libc::EMSGSIZE) => self.segment_below.min(message.segment),
            _ => return,
        };
        if self.segment_below == 0 {
            shared.segmentation_off(error);
        } else if !shared.told_segment_size.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                size = message.segment,
                remote_is_ipv6 = message.remote.is_ipv6(),
                "datagrams exceed the outgoing device's MTU: they are sent one by one and fragmented; lower the tunnel's mtu"
            );
        }
    }

    /// There may be new paths: what one path's MTU forbade is tried again.
    pub(super) fn paths_changed(&mut self) {
        if self.segment_below != 0 {
            self.segment_below = usize::MAX;
        }
    }
}

/// Where packets are sealed that are about to be sent.
pub(super) trait Places {
    /// The place for the next packet of `len` octets. It is sent with the others; there is no way back. `None` if no datagram is
    /// that long.
    fn place(
        &mut self,
        len: usize,
        path: &Path,
        outer: Outer,
        shared: &Shared,
        counters: &Counters,
    ) -> Option<&mut [u8]>;
}

impl Places for SendBatch {
    fn place(
        &mut self,
        len: usize,
        path: &Path,
        outer: Outer,
        shared: &Shared,
        counters: &Counters,
    ) -> Option<&mut [u8]> {
        if len > MAX_OCTETS {
            counters.dropped(Cause::SendFailed, 1);
            return None;
        }
        let remote = if self.raw {
            SocketAddr::new(path.remote.ip(), 0)
        } else {
            path.remote
        };
        let Outer { tos, dont_fragment } = outer;
        if !self.joins(len, path, outer) {
            if self.used + len > SEND_AT || self.messages.len() == MESSAGES {
                self.send(shared, counters);
            }
            self.messages.push(Outgoing {
                start: self.used,
                len: 0,
                segment: len,
                local: path.local.ip(),
                remote,
                tos,
                dont_fragment,
            });
            self.open = len < self.segment_below;
        }
        let start = self.used;
        self.used += len;
        if let Some(message) = self.messages.last_mut() {
            message.len += len;
            // Only the last datagram of a message may be shorter.
            self.open = self.open && len == message.segment;
        }
        self.octets.get_mut(start..start + len)
    }
}

/// What an inner packet decides of the outer header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Outer {
    /// TOS or traffic class.
    pub tos: u8,
    /// DF, outside IPv4.
    pub dont_fragment: bool,
}

fn full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}
