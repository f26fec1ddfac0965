//! The send batch: ESP packets of one size and one destination, sealed where the kernel reads them.

use crate::sys::udp::{self, Destination, MOST_OCTETS, MOST_SEGMENTS};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;

/// Segments under way to one send call.
pub struct SendBatch {
    octets: Vec<u8>,
    len: usize,
    segment: usize,
    count: usize,
    /// A shorter one was added: it is the last (UDP_SEGMENT).
    closed: bool,
    to: Destination,
    /// The kernel (or the device below) segments for us.
    gso: bool,
    told: bool,
}

impl SendBatch {
    /// Room for one send call.
    #[must_use]
    pub fn new(gso: bool) -> Self {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let to = Destination {
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote: nowhere,
            tos: 0,
        };
        Self {
            octets: vec![0; MOST_OCTETS + 2048],
            len: 0,
            segment: 0,
            count: 0,
            closed: false,
            to,
            gso,
            told: false,
        }
    }

    /// Whether the kernel segments.
    #[must_use]
    pub const fn gso(&self) -> bool {
        self.gso
    }

    /// Whether a packet of `len` octets for `to` can join what is there.
    #[must_use]
    pub fn fits(&self, len: usize, to: &Destination) -> bool {
        self.count == 0
            || (!self.closed
                && *to == self.to
                && len <= self.segment
                && self.count < MOST_SEGMENTS
                && self.len + len <= MOST_OCTETS)
    }

    /// The place for the next packet. Only after [`Self::fits`] said yes.
    pub fn place(&mut self, len: usize, to: &Destination) -> &mut [u8] {
        if self.count == 0 {
            self.to = *to;
            self.segment = len;
            if self.octets.len() < len {
                self.octets.resize(len, 0);
            }
        }
        self.closed = len < self.segment;
        self.count += 1;
        let start = self.len;
        self.len += len;
        &mut self.octets[start..start + len]
    }

    /// Packets waiting.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Sends what waits. Where segmentation is refused, one by one from then on. Returns the packets that were lost.
    pub fn flush(&mut self, fd: RawFd) -> usize {
        if self.count == 0 {
            return 0;
        }
        let octets = &self.octets[..self.len];
        let mut lost = 0;
        if self.gso || self.count == 1 {
            match udp::send_segments(fd, octets, self.segment, &self.to) {
                Ok(()) => {}
                Err(error) if self.count > 1 && degrades(&error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        tracing::warn!(%error, "UDP segmentation is refused here: sending packets one by one");
                    }
                    self.gso = false;
                    lost = send_singly(fd, octets, self.segment, &self.to);
                }
                Err(_) => lost = self.count,
            }
        } else {
            lost = send_singly(fd, octets, self.segment, &self.to);
        }
        self.len = 0;
        self.count = 0;
        self.closed = false;
        lost
    }
}

/// EIO: the device can't; EINVAL, EMSGSIZE: a segment is larger than the path's MTU.
fn degrades(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
    )
}

fn send_singly(fd: RawFd, octets: &[u8], segment: usize, to: &Destination) -> usize {
    octets
        .chunks(segment)
        .filter(|packet| udp::send_segments(fd, packet, packet.len(), to).is_err())
        .count()
}
