//! Reading TCP connections: messages are found, ESP packets are opened where they stand, IKE messages go to control.

use super::super::inbound::{Fate, Inbound};
use super::super::report::FromStream;
use super::super::stats::Cause;
use super::super::worker::Wakeup;
use super::Stream;
use crate::sys::poll::Poll;
use crate::sys::receive::Message;
use landbridge_proto::esp::encap::{Datagram, classify};
use landbridge_proto::esp::stream::Deframer;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Octets that are read at once.
const READ: usize = 256 << 10;
/// The same with TLS: what is within is no longer, but for the begin of a record that came before.
const READ_SEALED: usize = READ - (32 << 10);
/// The longest part of a message that may be left over.
const LEFT: usize = 64 << 10;
/// RFC 9329 §6.1: the connection is corrupted "if there are too many subsequent messages that cannot be parsed as valid IKE
/// messages or ESP messages with known SPIs"; but "if only a few consecutive ESP packets have unknown SPIs", it is not.
const MOST_WRONG: u32 = 64;
/// Before an authenticated IKE SA uses it, a connection is good for so many IKE messages,
const MOST_UNPROVEN: u32 = 256;
/// of so many octets,
const LONGEST_UNPROVEN: usize = 16 << 10;
/// and so many of them may wait for control.
const MOST_QUEUED: usize = 32;
/// The same of one that an IKE SA uses.
const MOST_QUEUED_PROVEN: usize = 256;
/// After so many packets in a row that belong to another worker, that one reads on.
const MOVE_AFTER: u32 = 64;

/// The tokens of a connection, from those of the connections on: readable, writable.
const TOKENS: u64 = 2;

/// The connections that a worker reads.
pub struct Readers {
    slots: Vec<Option<Reading>>,
    /// Its memory comes with the first connection.
    buffer: Vec<u8>,
    /// What is received of those with TLS; its memory comes with the first of them.
    sealed: Vec<u8>,
}

/// A connection, and where its reading stands.
pub struct Reading {
    stream: Arc<Stream>,
    /// The same socket, to wait until it can be written to.
    writable: TcpStream,
    deframer: Deframer,
    /// The begin of a message.
    left: Vec<u8>,
    /// Messages that could not be used, in a row.
    wrong: u32,
    /// IKE messages before it was proven.
    unproven: u32,
    /// It was moved before it was proven.
    moved: bool,
    /// Who owns the packets that came last, if not this worker, and how many they were.
    elsewhere: (usize, u32),
}

/// What is to become of a connection.
enum Next {
    Stay,
    Close(String),
    Move(usize),
}

/// What a message says of the connection.
enum Verdict {
    Good,
    Wrong,
    /// Nothing: whether it is ours is not known here.
    Open,
}

impl Reading {
    /// Nothing is read yet.
    pub fn new(stream: Arc<Stream>) -> io::Result<Self> {
        let deframer = if stream.ours {
            Deframer::originator()
        } else {
            Deframer::responder()
        };
        Ok(Self {
            writable: stream.socket.try_clone()?,
            stream,
            deframer,
            left: Vec::new(),
            wrong: 0,
            unproven: 0,
            moved: false,
            elsewhere: (0, 0),
        })
    }
}

impl Readers {
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            buffer: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// Takes a connection over; `base` is the first of the tokens for connections.
    pub fn take(&mut self, reading: Reading, poll: &Poll, base: u64, wakeup: &Wakeup<'_>) {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let token = base + slot as u64 * TOKENS;
        let waits = poll
            .add(&reading.stream.socket, token)
            .and_then(|()| poll.add_writable(&reading.writable, token + 1));
        if let Err(error) = waits {
            reading.stream.close(&error.to_string(), &wakeup.shared.sinks);
            return;
        }
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(reading);
        }
    }

    /// One turn of a connection.
    pub fn turn(&mut self, number: u64, inbound: &mut Inbound, poll: &Poll, wakeup: &Wakeup<'_>) {
        let slot = usize::try_from(number / TOKENS).unwrap_or(usize::MAX);
        let Some(place) = self.slots.get_mut(slot) else { return };
        let Some(reading) = place.as_mut() else { return };
        if number % TOKENS == 1 {
            return reading.stream.flush(&wakeup.shared.sinks);
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; LEFT + READ];
        }
        if reading.stream.tls && self.sealed.is_empty() {
            self.sealed = vec![0; READ_SEALED];
        }
        let next = reading.read(&mut self.buffer, &mut self.sealed, inbound, wakeup);
        let owner = match next {
            Next::Stay => return,
            Next::Close(why) => {
                reading.stream.close(&why, &wakeup.shared.sinks);
                None
            }
            Next::Move(owner) => Some(owner),
        };
        let Some(reading) = place.take() else { return };
        for result in [poll.remove(&reading.stream.socket), poll.remove(&reading.writable)] {
            if let Err(error) = result {
                tracing::debug!(%error, "a TCP connection can't be left");
            }
        }
        if let Some(owner) = owner {
            wakeup.shared.arrive(owner, reading);
        }
    }
}

impl Reading {
    fn read(&mut self, buffer: &mut [u8], sealed: &mut [u8], inbound: &mut Inbound, wakeup: &Wakeup<'_>) -> Next {
        let held = self.left.len();
        let Some((front, room)) = buffer.split_at_mut_checked(held) else {
            return Next::Close("a message is too long".to_owned());
        };
        let room = room.get_mut(..READ).unwrap_or_default();
        let received: &mut [u8] = if self.stream.tls { &mut *sealed } else { &mut *room };
        let mut came = match (&self.stream.socket).read(received) {
            Ok(0) => return Next::Close("the other end closed it".to_owned()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Next::Stay;
            }
            Err(error) => return Next::Close(error.to_string()),
        };
        let mut ends = false;
        if self.stream.tls {
            match self.stream.open(sealed.get(..came).unwrap_or_default(), room) {
                Ok(opened) => (came, ends) = (opened.len, opened.closed),
                Err(why) => return Next::Close(why),
            }
        }
        front.copy_from_slice(&self.left);
        self.left.clear();
        let filled = held + came;
        let mut at = 0;
        let outcome = self.messages(buffer, filled, &mut at, inbound, wakeup);
        inbound.deliver(buffer, wakeup);
        // RFC 9329 §6.1: "A peer MUST discard a partially received message due to a broken connection."
        let rest = buffer.get(at..filled).unwrap_or_default();
        self.left.extend_from_slice(rest);
        match outcome {
            Err(why) => Next::Close(why),
            Ok(()) if ends => Next::Close("the other end closed it (close_notify)".to_owned()),
            Ok(()) if !self.stream.is_proven() && self.left.len() > LONGEST_UNPROVEN => {
                Next::Close("a message is too long".to_owned())
            }
            Ok(()) if self.elsewhere.1 >= MOVE_AFTER => {
                let (owner, _) = std::mem::take(&mut self.elsewhere);
                Next::Move(owner)
            }
            Ok(()) => Next::Stay,
        }
    }

    /// Works on all whole messages.
    fn messages(
        &mut self,
        buffer: &mut [u8],
        filled: usize,
        at: &mut usize,
        inbound: &mut Inbound,
        wakeup: &Wakeup<'_>,
    ) -> Result<(), String> {
        loop {
            let octets = buffer.get(..filled).unwrap_or_default();
            let range = self.deframer.next(octets, at).map_err(|error| error.to_string())?;
            let Some(range) = range else { return Ok(()) };
            let message = octets.get(range.clone()).unwrap_or_default();
            let verdict = match classify(message) {
                // §6.6: it "MUST silently drop incoming NAT-keepalive packets and not treat them as errors".
                Datagram::Keepalive => Verdict::Good,
                Datagram::Ike => {
                    self.ike(message, wakeup)?;
                    Verdict::Good
                }
                Datagram::Esp(spi) => self.esp(buffer, spi, range, inbound, wakeup)?,
                Datagram::Short => Verdict::Wrong,
            };
            match verdict {
                Verdict::Good => self.wrong = 0,
                Verdict::Wrong => self.wrong += 1,
                Verdict::Open => {}
            }
            if self.wrong > MOST_WRONG {
                return Err("too many messages in a row that are neither IKE nor ESP of ours".to_owned());
            }
        }
    }

    fn ike(&mut self, message: &[u8], wakeup: &Wakeup<'_>) -> Result<(), String> {
        let proven = self.stream.is_proven();
        if !proven {
            self.unproven += 1;
            if self.unproven > MOST_UNPROVEN || message.len() > LONGEST_UNPROVEN {
                return Err("too much, and nobody authenticated".to_owned());
            }
        }
        let most = if proven { MOST_QUEUED_PROVEN } else { MOST_QUEUED };
        // A message lost here would not be sent again (RFC 9329 §6.2); by another connection it is.
        if self.stream.queued.fetch_add(1, Ordering::Relaxed) >= most {
            self.stream.taken();
            return Err("too many IKE messages at once".to_owned());
        }
        let message = message.get(super::NON_ESP_MARKER.len()..).unwrap_or_default();
        (wakeup.shared.sinks.streams)(FromStream::Ike(self.stream.path, self.stream.number, message.to_vec()));
        Ok(())
    }

    fn esp(
        &mut self,
        buffer: &mut [u8],
        spi: u32,
        range: Range<usize>,
        inbound: &mut Inbound,
        wakeup: &Wakeup<'_>,
    ) -> Result<Verdict, String> {
        // Strangers may not fill other workers' mailboxes: once, the connection itself goes where its packets belong. These are lost.
        if !wakeup.owns(spi) && !self.stream.is_proven() {
            wakeup.counters.dropped(Cause::UnknownSpi, 1);
            if !std::mem::replace(&mut self.moved, true) {
                self.elsewhere = (wakeup.shared.inbound_owner(spi), MOVE_AFTER);
            }
            return Ok(Verdict::Open);
        }
        let path = &self.stream.path;
        let message = Message {
            start: range.start,
            len: range.len(),
            segment: range.len().max(1),
            remote: path.remote,
            local: path.local.ip(),
            // RFC 9329 §9.5: the outer connection is not ECN-capable; "any ECN Congestion Experienced (CE) marking on inner headers
            // should be preserved".
            tos: 0,
            tcp: Some(path.local.port()),
        };
        match inbound.streamed(buffer, spi, range, &message, wakeup) {
            Fate::Taken => {
                self.elsewhere.1 = 0;
                Ok(Verdict::Good)
            }
            Fate::HandedOver(owner) => {
                let before = if self.elsewhere.0 == owner { self.elsewhere.1 } else { 0 };
                self.elsewhere = (owner, before + 1);
                Ok(Verdict::Open)
            }
            // We asked for this connection: the peer may send by SAs that are gone here until it has heard of it.
            Fate::UnknownSpi if self.stream.ours && !self.stream.is_proven() => Ok(Verdict::Open),
            Fate::UnknownSpi => Ok(Verdict::Wrong),
            // §6.1: "or if the authentication check for an IKE message or ESP message with a known SPI fails".
            Fate::NotAuthentic => Err("a packet failed its integrity check".to_owned()),
        }
    }
}
