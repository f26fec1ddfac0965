//! TCP connections that carry IKE and ESP (RFC 9329). One worker reads a connection (`reading`): ESP packets are opened where
//! they were received, IKE messages go to control. Whoever has something to send writes whole messages to it: control its IKE
//! messages, the workers the packets that they sealed (`batch`).

mod batch;
mod reading;
mod sealed;

pub(super) use batch::StreamBatch;
pub(super) use reading::{Readers, Reading};

use super::report::{FromStream, Sinks};
use crate::sys::stream::unsent;
use crate::tls::Session;
use landbridge_proto::esp::stream::{LENGTH, length_field};
use landbridge_proto::policy::sad::Path;
use std::io::{self, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Octets that may wait in the kernel before what else there is of ESP is dropped: a router's queue is no longer either, and
/// inner TCP learns of it by loss (RFC 9329 §9.1).
const MOST_UNSENT: usize = 256 << 10;
/// Octets of ESP that may wait here for the kernel.
const MOST_WAITING: usize = 64 << 10;
/// The same with IKE messages. What is beyond that closes the connection: one that takes nothing for so long is dead.
const MOST_WAITING_IKE: usize = 512 << 10;

/// RFC 3948 §2.2: four zero octets where an ESP packet has its SPI; RFC 9329 §3.1 has them too.
const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// A TCP connection.
pub(super) struct Stream {
    socket: TcpStream,
    /// Its two ends.
    pub path: Path,
    /// Counts connections: those of the same ends one after the other are not the same.
    pub number: u64,
    /// Whether we opened it: then the other end sends no prefix.
    pub ours: bool,
    /// Whether there is TLS around what it carries (`sealed`).
    pub tls: bool,
    /// An authenticated IKE SA uses it.
    proven: AtomicBool,
    closed: AtomicBool,
    /// IKE messages that control has not taken yet.
    queued: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// What the kernel did not take yet: it begins with what is left of a message that it took in part.
#[derive(Default)]
struct Waiting {
    octets: Vec<u8>,
    /// How much of them was written.
    written: usize,
    /// With TLS: what seals and opens. What waits is sealed.
    tls: Option<Session>,
}

impl Stream {
    /// One that was just connected or accepted, with a TLS session on it or without.
    pub(super) fn new(socket: TcpStream, path: Path, number: u64, ours: bool, tls: Option<Session>) -> Self {
        let mut waiting = Waiting {
            tls,
            ..Waiting::default()
        };
        if ours {
            waiting.begin();
        }
        Self {
            socket,
            path,
            number,
            ours,
            tls: waiting.tls.is_some(),
            proven: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            waiting: Mutex::new(waiting),
        }
    }

    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Control has taken a message.
    pub(super) fn taken(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an IKE message.
    pub(super) fn send_ike(&self, message: &[u8], sinks: &Sinks) {
        let len = NON_ESP_MARKER.len() + message.len();
        let Some(length) = length_field(len) else { return };
        let mut frame = Vec::with_capacity(LENGTH + len);
        frame.extend_from_slice(&length);
        frame.extend_from_slice(&NON_ESP_MARKER);
        frame.extend_from_slice(message);
        if self.write(&frame, MOST_WAITING_IKE) != Ok(0) {
            self.close("it can't be written to", sinks);
        }
    }

    /// Sends packets, each behind its length; returns how many were dropped because there is no room.
    pub(super) fn send_esp(&self, frames: &[u8], sinks: &Sinks) -> usize {
        if self.closed.load(Ordering::Relaxed) || unsent(&self.socket) > MOST_UNSENT {
            return count(frames);
        }
        match self.write(frames, MOST_WAITING) {
            Ok(dropped) => dropped,
            Err(kind) => {
                self.close(&kind.to_string(), sinks);
                count(frames)
            }
        }
    }

    /// The kernel has room again.
    pub(super) fn flush(&self, sinks: &Sinks) {
        let mut waiting = self.lock();
        let result = self.flush_waiting(&mut waiting);
        drop(waiting);
        if let Err(kind) = result {
            self.close(&kind.to_string(), sinks);
        }
    }

    /// Writes whole messages; what the kernel does not take waits, if it is no more than `most` octets. Returns how many
    /// messages were dropped.
    fn write(&self, frames: &[u8], most: usize) -> Result<usize, io::ErrorKind> {
        let mut waiting = self.lock();
        if self.tls {
            return self.write_sealed(&mut waiting, frames, most);
        }
        let written = if self.flush_waiting(&mut waiting)? {
            self.write_some(frames)?
        } else {
            0
        };
        let (mut at, mut dropped) = (0, 0);
        for frame in Frames(frames) {
            let (begin, end) = (at, at + frame.len());
            at = end;
            if end <= written {
                continue;
            }
            // One of which a part is sent has to be sent to its end.
            let begun = begin < written;
            if begun || waiting.octets.len() - waiting.written + frame.len() <= most {
                let rest = frame.get(written.saturating_sub(begin)..).unwrap_or_default();
                waiting.octets.extend_from_slice(rest);
            } else {
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Whether nothing waits any more.
    fn flush_waiting(&self, waiting: &mut Waiting) -> Result<bool, io::ErrorKind> {
        let rest = waiting.octets.get(waiting.written..).unwrap_or_default();
        if !rest.is_empty() {
            waiting.written += self.write_some(rest)?;
        }
        let done = waiting.written == waiting.octets.len();
        if done {
            waiting.octets.clear();
            waiting.written = 0;
        } else if waiting.written >= MOST_WAITING {
            // While there is always something that waits, what was written has to go as well.
            waiting.octets.drain(..waiting.written);
            waiting.written = 0;
        }
        Ok(done)
    }

    /// As much as the kernel takes. It is asked until it refuses: only then it tells when there is room again.
    fn write_some(&self, octets: &[u8]) -> Result<usize, io::ErrorKind> {
        let mut written = 0;
        while let Some(rest) = octets.get(written..).filter(|rest| !rest.is_empty()) {
            match (&self.socket).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.kind()),
            }
        }
        Ok(written)
    }

    /// Ends it and tells control, once. What the kernel has taken it still sends.
    pub(super) fn close(&self, why: &str, sinks: &Sinks) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            if self.tls {
                self.say_goodbye();
            }
            // Its reader wakes up and forgets it. If it is closed already there is nothing to be done.
            drop(self.socket.shutdown(Shutdown::Both));
            (sinks.streams)(FromStream::Closed(self.path, self.number, why.to_owned()));
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({} - {})", self.path.local, self.path.remote)
    }
}

/// Messages with their lengths, one behind the other; all of them are whole.
struct Frames<'a>(&'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let [high, low] = self.0.get(..LENGTH)?.try_into().ok()?;
        let (frame, rest) = self.0.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        self.0 = rest;
        Some(frame).filter(|frame| !frame.is_empty())
    }
}

fn count(frames: &[u8]) -> usize {
    Frames(frames).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stream::{listen, prepare};
    use landbridge_proto::esp::stream::Deframer;
    use std::io::Read as _;
    use std::sync::Arc;

    pub(super) fn sinks() -> (Sinks, Arc<Mutex<Vec<FromStream>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&told);
        let sinks = Sinks {
            reports: Arc::new(|_| true),
            strays: Arc::new(|_, _| {}),
            audit: Arc::new(|_| {}),
            streams: Arc::new(move |from| list.lock().unwrap().push(from)),
        };
        (sinks, told)
    }

    /// A connection that we opened, and the other end of it.
    pub(super) fn pair(session: Option<Session>) -> (Stream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        prepare(&socket).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (other, _) = listener.accept().unwrap();
        let path = Path::tcp(socket.local_addr().unwrap(), socket.peer_addr().unwrap());
        (Stream::new(socket, path, 1, true, session), other)
    }

    pub(super) fn frame(number: u32, len: usize) -> Vec<u8> {
        let mut frame = length_field(len).unwrap().to_vec();
        frame.extend(number.to_be_bytes());
        frame.resize(LENGTH + len, 0xaa);
        frame
    }

    /// However slow the other end reads, what arrives are whole messages in order, and what did not is counted. `read_all` is
    /// the other end, which begins when a lot waits, and `ike` are messages that are not dropped.
    pub(super) fn assert_messages_are_whole(
        stream: &Stream,
        ike: &[&[u8]],
        read_all: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) {
        let (sinks, told) = sinks();
        let (mut dropped, mut sent) = (0, 0);
        for number in 0..6000 {
            let batch: Vec<u8> = (0..4).flat_map(|part| frame(1 + number * 4 + part, 900)).collect();
            dropped += stream.send_esp(&batch, &sinks);
            sent += 4;
        }
        ike.iter().for_each(|message| stream.send_ike(message, &sinks));
        assert!(dropped > 0, "nobody reads");
        let reader = std::thread::spawn(read_all);
        while !stream.lock().octets.is_empty() {
            stream.flush(&sinks);
            std::thread::yield_now();
        }
        stream.close("done", &sinks);
        stream.close("done", &sinks);
        assert_eq!(told.lock().unwrap().len(), 1);
        let all = reader.join().unwrap();
        let (mut deframer, mut at, mut last, mut came) = (Deframer::responder(), 0, 0, 0);
        let mut others = Vec::new();
        while let Some(range) = deframer.next(&all, &mut at).unwrap() {
            let message = &all[range];
            if message.len() == 900 {
                let number = u32::from_be_bytes(message[..4].try_into().unwrap());
                assert!(number > last);
                (last, came) = (number, came + 1);
            } else {
                assert_eq!(message[..4], [0; 4]);
                others.push(&message[4..]);
            }
        }
        assert_eq!(at, all.len());
        assert_eq!(came + dropped, sent);
        assert_eq!(others, ike);
    }

    #[test]
    fn messages_are_whole_whatever_is_dropped() {
        let (stream, mut other) = pair(None);
        assert_messages_are_whole(&stream, &[b"a message"], move || {
            let mut all = Vec::new();
            other.read_to_end(&mut all).unwrap();
            all
        });
    }

    /// What was written does not stay, though there is always something that waits.
    #[test]
    fn a_slow_reader_does_not_fill_the_memory() {
        let (stream, mut other) = pair(None);
        let (sinks, _) = sinks();
        let waits = |stream: &Stream| {
            let waiting = stream.lock();
            waiting.octets.len() - waiting.written
        };
        let (mut buffer, mut most, mut total) = ([0; 4096], 0, 0);
        for _ in 0..4000 {
            // As much as makes that something always waits.
            while waits(&stream) < MOST_WAITING {
                stream.send_ike(&[7; 4000], &sinks);
                total += 4000;
            }
            assert!(other.read(&mut buffer).unwrap() > 0);
            stream.flush(&sinks);
            most = most.max(stream.lock().octets.len());
        }
        assert!(total > 4 * MOST_WAITING, "{total}");
        assert!(most <= 4 * MOST_WAITING, "{most}");
    }

    #[test]
    fn a_connection_that_takes_nothing_is_closed_by_ike() {
        let (stream, _other) = pair(None);
        let (sinks, told) = sinks();
        for _ in 0..2000 {
            stream.send_ike(&[7; 60_000], &sinks);
        }
        assert!(matches!(told.lock().unwrap().as_slice(), [FromStream::Closed(..)]));
        assert!(stream.lock().octets.len() <= MOST_WAITING_IKE + 64_000);
    }
}
