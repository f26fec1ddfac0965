//! Joins runs of decrypted TCP segments or UDP datagrams into super-packets for one write to the TUN, as the kernel's
//! own GRO would. Nothing is copied but headers: the plan names the payload slices for `writev`.

use super::flow::Flow;
use super::vnet::VnetHeader;
use std::ops::Range;

/// What may be joined; switched off where the kernel refuses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoalesceOptions {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams (needs USO in the kernel: 6.2).
    pub udp: bool,
}

/// Plans a batch. Reused: after [`Self::clear`] its memory is kept.
///
/// ```text
/// for each decrypted packet, in order of arrival:  coalescer.push(index, &flow, packet)
/// for item in coalescer.plan():  writev([item.vnet.to_octets(), item.header, parts of the packets...])
/// coalescer.clear()
/// ```
#[derive(Debug)]
pub struct Coalescer {
    options: CoalesceOptions,
}

impl Coalescer {
    /// For batches of about `packets` packets; larger ones allocate once.
    #[must_use]
    pub fn new(options: CoalesceOptions, packets: usize) -> Self {
        todo!("{options:?}{packets}")
    }

    /// Changes what is joined from the next packet on.
    pub fn set_options(&mut self, options: CoalesceOptions) {
        self.options = options;
    }

    /// Takes the next packet, which the plan will name by `index`. `flow` is [`super::flow::parse`] of `packet`.
    pub fn push(&mut self, index: u32, flow: &Flow, packet: &[u8]) {
        todo!("{index}{flow:?}{packet:?}")
    }

    /// What to write, in order.
    pub fn plan(&mut self) -> impl Iterator<Item = Item<'_>> {
        std::iter::empty()
    }

    /// Items that [`Self::plan`] will yield.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Nothing pushed since [`Self::clear`]?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the batch.
    pub fn clear(&mut self) {
        todo!()
    }
}

/// One write to the TUN: vnet header, `header`, then the parts.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// All zero for a single packet.
    pub vnet: VnetHeader,
    /// IP and transport header of the super-packet; empty for a single packet, whose part is the whole packet.
    pub header: &'a [u8],
    /// Packets in it.
    pub count: usize,
}

impl Item<'_> {
    /// Which octets of which packets follow.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        std::iter::empty()
    }
}

/// Octets of a packet that was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The packet.
    pub index: u32,
    /// Octets of it.
    pub range: Range<usize>,
}
