//! Connections with TLS around what they carry (RFC 9329 Appendix A). Whoever reads and whoever writes share the session, by the lock
//! that writing takes anyway. A record that is sealed has a number in its order, so it has to be sent: what there is no room for is
//! dropped before.

use super::{Frames, Stream, Waiting};
use crate::tls::{Opened, Session};
use landbridge_proto::esp::stream::PREFIX;
use std::io;
use std::net::TcpStream;
use std::sync::PoisonError;

impl Waiting {
    /// RFC 9329 §6.1: "The first bytes sent on the TCP stream MUST be the stream prefix value"; §4: with another framing protocol it
    /// "must be at the start of the TCP Originator's IKE and ESP message stream within the added protocol layer".
    pub(super) fn begin(&mut self) {
        match &mut self.tls {
            None => self.octets.extend_from_slice(&PREFIX),
            Some(session) => {
                // One whose handshake is over takes it; else the first message tells.
                let _: Result<(), _> = session.seal(&PREFIX);
                keep(session, &mut self.octets);
            }
        }
    }

    fn len(&self) -> usize {
        self.octets.len() - self.written
    }
}

impl Stream {
    /// Seals and writes whole messages. Those that come while the kernel takes none wait, if that makes no more than `most` octets;
    /// how many messages were dropped.
    pub(super) fn write_sealed(
        &self,
        waiting: &mut Waiting,
        frames: &[u8],
        most: usize,
    ) -> Result<usize, io::ErrorKind> {
        let is_free = self.flush_waiting(waiting)?;
        let (taken, dropped) = if is_free {
            (frames, 0)
        } else {
            room_for(frames, most.saturating_sub(waiting.len()))
        };
        if taken.is_empty() {
            return Ok(dropped);
        }
        let Waiting { octets, tls, .. } = waiting;
        let session = tls.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        session.seal(taken)?;
        if is_free {
            send(session, &self.socket)?;
        }
        keep(session, octets);
        Ok(dropped)
    }

    /// Opens what was received; see [`Session::open`].
    pub(super) fn open(&self, sealed: &[u8], plain: &mut [u8]) -> Result<Opened, String> {
        let mut waiting = self.lock();
        let Waiting { octets, tls, .. } = &mut *waiting;
        let Some(session) = tls else {
            return Err("no TLS session".to_owned());
        };
        let opened = session.open(sealed, plain);
        if session.wants_write() {
            // An alert; an answer to a change of keys goes with the next message.
            keep(session, octets);
            self.flush_waiting(&mut waiting).map_err(|kind| kind.to_string())?;
        }
        opened
    }

    /// close_notify, if the kernel takes it at once: RFC 8446 §6.1: "Each party MUST send a "close_notify" alert before closing its
    /// write side of the connection, unless it has already sent some error alert."
    pub(super) fn say_goodbye(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { octets, tls, .. } = &mut *waiting;
        if let Some(session) = tls {
            session.close();
            keep(session, octets);
        }
        // One that is broken can't be told.
        let _: Result<bool, _> = self.flush_waiting(&mut waiting);
    }
}

/// As many of the messages, from the first on, as have room; how many have none.
fn room_for(frames: &[u8], room: usize) -> (&[u8], usize) {
    let (mut end, mut dropped) = (0, 0);
    for frame in Frames(frames) {
        if dropped > 0 || end + frame.len() > room {
            dropped += 1;
        } else {
            end += frame.len();
        }
    }
    (frames.get(..end).unwrap_or_default(), dropped)
}

/// As much as the kernel takes. It is asked until it refuses: only then it tells when there is room again.
fn send(session: &mut Session, mut socket: &TcpStream) -> Result<(), io::ErrorKind> {
    while session.wants_write() {
        match session.write_to(&mut socket) {
            Ok(0) => return Err(io::ErrorKind::WriteZero),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.kind()),
        }
    }
    Ok(())
}

/// What is sealed and not sent waits behind what waits already.
fn keep(session: &mut Session, octets: &mut Vec<u8>) {
    // Memory takes all of it.
    while session.wants_write() && session.write_to(octets).is_ok_and(|count| count > 0) {}
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_messages_are_whole, frame, sinks};
    use super::super::{MOST_WAITING, MOST_WAITING_IKE};
    use super::*;
    use crate::data::report::FromStream;
    use std::io::Read as _;

    /// A connection that we opened, and the other end of it.
    fn pair() -> (Stream, TcpStream, Session) {
        let (client, server) = crate::tls::tests::pair();
        let (stream, other) = super::super::tests::pair(Some(client));
        (stream, other, server)
    }

    /// All that is in it until it is closed; whether that was told.
    fn read_all(mut other: TcpStream, mut session: Session) -> (Vec<u8>, bool) {
        let (mut all, mut closed) = (Vec::new(), false);
        let (mut sealed, mut plain) = (vec![0; 30_000], vec![0; 100_000]);
        loop {
            match other.read(&mut sealed).unwrap() {
                0 => return (all, closed),
                came => {
                    let opened = session.open(&sealed[..came], &mut plain).unwrap();
                    all.extend_from_slice(&plain[..opened.len]);
                    closed |= opened.closed;
                }
            }
        }
    }

    /// Also a message that takes several records.
    #[test]
    fn messages_are_whole_whatever_is_dropped() {
        let (stream, other, session) = pair();
        assert_messages_are_whole(&stream, &[b"a message", &[5; 50_000]], move || {
            let (all, was_told) = read_all(other, session);
            assert!(was_told, "close_notify");
            all
        });
    }

    #[test]
    fn a_slow_reader_does_not_fill_the_memory() {
        let (stream, mut other, mut session) = pair();
        let (sinks, told) = sinks();
        let (mut sealed, mut plain, mut most) = (vec![0; 5000], vec![0; 60_000], 0);
        let (mut went, mut dropped) = (0, 0);
        // What a batch brings at most (`batch`), while the other end reads a little of it.
        let batch: Vec<u8> = (0..64).flat_map(|number| frame(1 + number, 1000)).collect();
        for _ in 0..3000 {
            dropped += stream.send_esp(&batch, &sinks);
            let came = other.read(&mut sealed).unwrap();
            went += session.open(&sealed[..came], &mut plain).unwrap().len;
            stream.flush(&sinks);
            most = most.max(stream.lock().octets.len());
        }
        assert!(went > 4 * MOST_WAITING && dropped > 0, "{went} {dropped}");
        assert!(most <= 4 * MOST_WAITING, "{most}");
        // IKE may have more; with what is beyond that the connection ends.
        for _ in 0..2000 {
            stream.send_ike(&[7; 60_000], &sinks);
        }
        assert!(matches!(told.lock().unwrap().as_slice(), [FromStream::Closed(..)]));
        assert!(stream.lock().octets.len() <= MOST_WAITING_IKE + 70_000);
    }

    #[test]
    fn messages_that_have_no_room_are_counted() {
        let frames: Vec<u8> = [10, 20, 30, 5].iter().flat_map(|len| frame(1, *len)).collect();
        for (room, length, dropped) in [
            (0, 0, 4),
            (11, 0, 4),
            (12, 12, 3),
            (34, 34, 2),
            (60, 34, 2),
            (500, 73, 0),
        ] {
            let (taken, beyond) = room_for(&frames, room);
            assert_eq!((taken.len(), beyond), (length, dropped), "{room}");
        }
    }

    /// Keys that are changed by the other end while we send, and an alert, reach it.
    #[test]
    fn what_the_session_says_itself_is_sent() {
        let (stream, mut other, mut session) = pair();
        let (sinks, _) = sinks();
        let mut sealed = Vec::new();
        session.change_keys();
        session.seal(&[0, 3, 0xff]).unwrap();
        while session.wants_write() {
            session.write_to(&mut sealed).unwrap();
        }
        let mut plain = vec![0; 40_000];
        let opened = stream.open(&sealed, &mut plain).unwrap();
        assert_eq!((opened.len, opened.closed), (3, false));
        stream.send_ike(b"by new keys", &sinks);
        let mut all = vec![0; 5000];
        let came = other.read(&mut all).unwrap();
        let mut room = vec![0; 40_000];
        let opened = session.open(&all[..came], &mut room).unwrap();
        assert_eq!(&room[..opened.len], b"IKETCP\0\x11\0\0\0\0by new keys");
        // Broken: the other end is told why.
        assert!(stream.open(&[23, 3, 3, 0, 30, 7, 7, 7, 7], &mut plain).is_ok());
        assert!(stream.open(&[7; 26], &mut plain).unwrap_err().starts_with("TLS: "));
        stream.close("broken", &sinks);
        all.clear();
        other.read_to_end(&mut all).unwrap();
        let why = session.open(&all, &mut room).unwrap_err();
        assert_eq!(why, "TLS: the other end refuses (BadRecordMac)");
    }
}
