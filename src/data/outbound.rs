//! TUN -> UDP: super-packets are read, split, and sealed segment by segment where they are sent from.

use super::attaching::{Order, Step};
use super::own::Own;
use super::queues::Packet;
use super::report::Nanos;
use super::sending::Sending;
use super::stats::Cause;
use super::streams::StreamBatch;
use super::table::{Change, Interface};
use super::worker::{Sockets, Wakeup, send_all};
use crate::sys::tun::{Pieces, Tun};
use landbridge_proto::ip::icmp;
use landbridge_proto::ip::vnet::VnetHeader;
use landbridge_proto::policy::sad::Encapsulation;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Packets of a TUN in one turn.
const TURN_PACKETS: usize = 64;
/// Octets of a TUN in one turn; then the others have theirs.
const TURN_OCTETS: usize = 256 << 10;
/// The longest packet a TUN hands out, with its header.
const LONGEST: usize = VnetHeader::LEN + 65_536;

/// The outbound half of a worker.
pub(super) struct Outbound {
    /// By number.
    interfaces: Vec<Heard>,
    /// Of which interface a packet was read last, since a queue came.
    latest: Option<usize>,
    /// Those with pairs that send by time.
    timed: Vec<(usize, usize)>,
    /// One whose interface turned out to be deleted.
    gone: Option<(usize, usize)>,
    /// Those that are not attached, or detached, as they should be.
    unsettled: Vec<(usize, usize)>,
    buffer: Vec<u8>,
    pieces: Pieces,
    icmp: Vec<u8>,
}

/// An interface as a worker knows it.
#[derive(Default)]
struct Heard {
    /// As it is now, whoever reads it.
    interface: Option<Arc<Interface>>,
    /// Its queues; those that other workers read are `None`.
    queues: Vec<Option<Own>>,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            interfaces: Vec::new(),
            latest: None,
            timed: Vec::new(),
            gone: None,
            unsettled: Vec::new(),
            buffer: vec![0; LONGEST],
            pieces: Pieces::default(),
            icmp: vec![0; icmp::MAX_LEN],
        }
    }

    /// Takes up a change: `owns` says which queues are this worker's to begin with. `came` and `went` hear of those that are to be waited for
    /// from now on (the kernel says nothing of those that are not attached), and no more; `came` says whether it can be.
    pub(super) fn take_up(
        &mut self,
        change: &Change,
        owns: impl Fn(usize, usize) -> bool,
        mut came: impl FnMut(usize, usize, &Tun) -> bool,
        mut went: impl FnMut(&Tun),
    ) {
        for (number, new) in &change.interfaces {
            if self.interfaces.len() <= *number {
                self.interfaces.resize_with(*number + 1, Heard::default);
            }
            let Some(heard) = self.interfaces.get_mut(*number) else {
                continue;
            };
            heard.interface.clone_from(new);
            let places = &mut heard.queues;
            self.timed.retain(|(timed, _)| timed != number);
            self.unsettled.retain(|(unsettled, _)| unsettled != number);
            let count = new.as_ref().map_or(0, |new| new.queues.len());
            places.resize_with(places.len().max(count), || None);
            for (queue, own) in places.iter_mut().enumerate() {
                let new = new.as_ref().filter(|_| queue < count);
                if let Some(old) = own.take_if(|own| !new.is_some_and(|new| own.is_of(new)))
                    && let Some(tun) = old.tun().filter(|_| old.listening)
                {
                    went(tun);
                }
                let Some(new) = new else { continue };
                if own.is_none() && owns(*number, queue) && new.queues.begin(queue) {
                    *own = Some(Own::new(new, *number, queue));
                }
                let Some(own) = own else { continue };
                own.take_up(new);
                if own.timed {
                    self.timed.push((*number, queue));
                }
                if !own.listening
                    && let Some(tun) = own.tun().filter(|_| !new.queues.are_known_gone())
                {
                    own.listening = came(*number, queue, tun);
                }
                if own.step() != Some(Step::Settled) {
                    self.unsettled.push((*number, queue));
                }
            }
            places.truncate(count);
        }
    }

    /// Some queue is not yet as it should be.
    pub(super) const fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Orders queues to be attached and detached, each detached when another is there in its place. What is in it goes first, by the workers
    /// that have pairs for it: the kernel would throw it away.
    pub(super) fn settle(
        &mut self,
        orders: &Sender<Order>,
        wakeup: &Wakeup<'_>,
        sockets: &mut Sockets,
        streams: &mut StreamBatch,
    ) {
        let mut unsettled = std::mem::take(&mut self.unsettled);
        unsettled.retain(|(number, queue)| {
            let Some(step) = self.own(*number, *queue).and_then(|own| own.step()) else {
                return false;
            };
            if step == Step::Settled {
                return false;
            }
            let more = step == Step::Detach && self.turn(*number, *queue, wakeup, sockets, streams);
            let Some(own) = self.own(*number, *queue) else {
                return false;
            };
            if more && own.turns_left > 0 {
                own.turns_left -= 1;
                wakeup.again();
            } else if step != Step::Wait {
                own.order(step, orders);
            }
            true
        });
        self.unsettled = unsettled;
    }

    /// After a turn: `went` hears of it if the interface turned out to be deleted. epoll would not tell of anything else any more.
    pub(super) fn leave_gone(&mut self, went: impl Fn(&Tun)) {
        let Some((number, queue)) = self.gone.take() else {
            return;
        };
        let Some(own) = self.own(number, queue) else { return };
        let Some(tun) = own.tun().filter(|tun| own.listening && tun.is_gone()) else {
            return;
        };
        went(tun);
        own.listening = false;
        if own.interface.queues.found_gone() {
            let connection = &own.interface.connection;
            tracing::error!(%connection, "nothing goes by its interface any more: another program has deleted it");
        }
    }

    fn own(&mut self, number: usize, queue: usize) -> Option<&mut Own> {
        self.interfaces.get_mut(number)?.queues.get_mut(queue)?.as_mut()
    }

    /// The interface that was read last, if another worker may have its queue, and the SPI of ours that goes with it.
    pub(super) fn latest(&self) -> Option<(usize, u32)> {
        let latest = self.latest?;
        let own = self.interfaces.get(latest)?.queues.first()?.as_ref()?;
        Some((latest, own.spi()?)).filter(|_| own.may_go())
    }

    /// Gives the queue of an interface away. `went` hears of what is to be read no more.
    pub(super) fn let_go(&mut self, number: usize, went: impl Fn(&Tun)) -> Option<Own> {
        let place = self.interfaces.get_mut(number)?.queues.first_mut()?;
        let mut own = place.take_if(|own| own.may_go())?;
        if let Some(tun) = own.tun().filter(|_| own.listening) {
            went(tun);
        }
        own.listening = false;
        Some(own)
    }

    /// Takes a queue that another worker has given away. `came` hears of what is to be read from now on.
    pub(super) fn take_queue(&mut self, number: usize, mut own: Own, came: impl Fn(&Tun) -> bool) {
        let Some(Heard { interface, queues }) = self.interfaces.get_mut(number) else {
            return;
        };
        // It may have gone meanwhile.
        let interface = interface.as_ref().filter(|interface| own.is_of(interface));
        let (Some(interface), Some(place)) = (interface, queues.first_mut()) else {
            return;
        };
        if !Arc::ptr_eq(&own.interface, interface) {
            own.take_up(interface);
        }
        if own.timed {
            self.timed.push((number, 0));
        }
        own.listening = !interface.queues.are_known_gone() && own.tun().is_some_and(came);
        *place = Some(own);
        // It is read here before it goes on.
        self.latest = None;
    }

    /// Whether an interface has several queues.
    pub(super) fn is_one_of_several(&self, number: usize) -> bool {
        self.interfaces.get(number).is_some_and(|heard| heard.queues.len() > 1)
    }

    /// A packet that another worker read.
    pub(super) fn handed_over(
        &mut self,
        packet: &mut Packet,
        wakeup: &Wakeup<'_>,
        sockets: &mut Sockets,
        streams: &mut StreamBatch,
    ) {
        let Packet { interface, queue, .. } = *packet;
        let places = self.interfaces.get_mut(interface);
        let own = places.and_then(|heard| heard.queues.get_mut(queue)?.as_mut());
        // Another connection may have taken over the number.
        let Some(own) = own.filter(|own| packet.is_of(&own.interface)) else {
            return wakeup.counters.dropped(Cause::Handover, 1);
        };
        let error = own.send(&mut packet.octets, packet.hops, wakeup, sockets, streams);
        if let Some(error) = error {
            own.answer(&error, &mut self.icmp, &mut self.pieces);
        }
    }

    /// Some pair sends by time.
    pub(super) fn is_timed(&self) -> bool {
        !self.timed.is_empty()
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let owns = self
            .timed
            .iter()
            .filter_map(|(number, queue)| self.interfaces.get(*number)?.queues.get(*queue)?.as_ref());
        // A pair without a socket would be due for ever.
        let pairs = owns.flat_map(|own| &own.active);
        let pairs = pairs.filter(|sending| sending.child.encapsulation != Encapsulation::Tcp);
        let deadline = |sending: &Sending| sending.bundle.as_ref()?.deadline();
        pairs.filter_map(deadline).min()
    }

    /// Sends what is due by time.
    pub(super) fn tick(&mut self, wakeup: &Wakeup<'_>, sockets: &mut Sockets) {
        for (number, queue) in &self.timed {
            let heard = self.interfaces.get_mut(*number);
            if let Some(Some(own)) = heard.and_then(|heard| heard.queues.get_mut(*queue)) {
                own.tick(wakeup, sockets);
            }
        }
        for batch in sockets.iter_mut().flatten() {
            batch.send(wakeup.shared, wakeup.counters);
        }
    }

    /// One turn of a TUN's queue. Everything is sent at its end. False if nothing more was there.
    pub(super) fn turn(
        &mut self,
        number: usize,
        queue: usize,
        wakeup: &Wakeup<'_>,
        sockets: &mut Sockets,
        streams: &mut StreamBatch,
    ) -> bool {
        let Self {
            interfaces,
            latest,
            gone,
            buffer,
            pieces,
            icmp,
            ..
        } = self;
        let heard = interfaces.get_mut(number);
        let Some(Some(own)) = heard.and_then(|heard| heard.queues.get_mut(queue)) else {
            return false;
        };
        *latest = Some(number);
        let interface = Arc::clone(&own.interface);
        let Some(tun) = interface.queues.tun(queue) else {
            return false;
        };
        let mut octets = 0;
        let mut more = true;
        for _ in 0..TURN_PACKETS {
            let len = match tun.read(buffer) {
                Ok(len) => len,
                // Mostly "nothing there".
                Err(error) => {
                    if error.raw_os_error() == Some(libc::EBADFD) {
                        *gone = Some((number, queue));
                    }
                    more = false;
                    break;
                }
            };
            let packet = buffer.get_mut(..len).unwrap_or_default();
            if let Some(error) = own.send(packet, 0, wakeup, sockets, streams) {
                own.answer(&error, icmp, pieces);
            }
            octets += len;
            if octets >= TURN_OCTETS {
                break;
            }
        }
        if own.timed {
            own.tick(wakeup, sockets);
        }
        send_all(sockets, streams, wakeup);
        more
    }
}
