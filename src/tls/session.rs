//! One TLS connection, as octets in and octets out.

use super::in_words;
use rustls::{Connection, HandshakeKind};
use std::fmt;
use std::io::{self, Read as _, Write};

/// One end of it.
pub struct Session {
    connection: Box<Connection>,
}

/// What came of octets that were received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// How many octets of the stream within.
    pub len: usize,
    /// The other end has said that no more come (close_notify).
    pub closed: bool,
}

impl Session {
    pub(super) fn new(mut connection: Connection) -> Self {
        // What is sealed has to be sent, so how much is sealed is decided before: see `data::streams`.
        connection.set_buffer_limit(None);
        Self {
            connection: Box::new(connection),
        }
    }

    /// Whether nothing but the handshake can be sent or received yet.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether there is something for [`Self::write_to`].
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Takes what was received, and writes what was in it to `plain`, which has to have as much room and a record more. There may
    /// be something to send then, of which the last is, after an error, why.
    ///
    /// # Errors
    /// It is no TLS, or not that of the other end; in words. The connection is to be closed.
    pub fn open(&mut self, mut sealed: &[u8], plain: &mut [u8]) -> Result<Opened, String> {
        let mut opened = Opened { len: 0, closed: false };
        while !sealed.is_empty() && !opened.closed {
            // It copies some: what is held is bounded by the longest record, in the handshake by the longest message (64 KiB).
            if self
                .connection
                .read_tls(&mut sealed)
                .map_err(|error| error.to_string())?
                == 0
            {
                break;
            }
            let state = self
                .connection
                .process_new_packets()
                .map_err(|error| in_words(&error))?;
            let came = state.plaintext_bytes_to_read();
            if came > 0 {
                let room = plain.get_mut(opened.len..opened.len + came);
                let room = room.ok_or("TLS: more than there is room for")?;
                self.connection
                    .reader()
                    .read_exact(room)
                    .map_err(|error| error.to_string())?;
                opened.len += came;
            }
            // RFC 8446 §6.1: "Any data received after a closure alert has been received MUST be ignored."
            opened.closed = state.peer_has_closed();
        }
        Ok(opened)
    }

    /// Seals octets of the stream, all of them, for [`Self::write_to`]. Keys are changed before they are worn out (RFC 8446 §5.5).
    ///
    /// # Errors
    /// The connection is broken.
    pub fn seal(&mut self, plain: &[u8]) -> Result<(), io::ErrorKind> {
        self.connection.writer().write_all(plain).map_err(|error| error.kind())
    }

    /// Writes something of what is to be sent; returns how many octets.
    ///
    /// # Errors
    /// As `to` says.
    pub fn write_to(&mut self, to: &mut dyn Write) -> io::Result<usize> {
        self.connection.write_tls(to)
    }

    /// Nothing more is sealed, and the other end is told (close_notify).
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// `TLS13_AES_256_GCM_SHA384, resumed`, once the handshake is over.
    #[must_use]
    pub fn describe(&self) -> String {
        let suite = self.connection.negotiated_cipher_suite();
        let suite = suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite()));
        let resumed = self.is_resumed();
        format!("{suite}{}", if resumed { ", resumed" } else { "" })
    }

    /// Whether the session goes on with the keys of another.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Changes the keys that we send by, and asks the other end to do the same.
    #[cfg(test)]
    pub fn change_keys(&mut self) {
        self.connection.refresh_traffic_keys().unwrap();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.describe())
    }
}
