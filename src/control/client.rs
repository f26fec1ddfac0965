//! The client's end of the control socket: blocking, for commands.

use super::protocol::{LONGEST_LINE, Request, Response};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a request may take to be answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("landbridge is not running: nobody listens on {}\n  start it with: systemctl start landbridge (or: landbridge run)", .0.display())]
    NotRunning(PathBuf),
    /// The socket may not be used by this user.
    #[error("no permission to use {}\n  be root or in the socket's group", .0.display())]
    NotPermitted(PathBuf),
    /// Anything else with the socket.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// The answer is not understood.
    #[error("the daemon's answer is not understood ({0}); is it of another version?")]
    Answer(String),
    /// The daemon hung up.
    #[error("the daemon closed the connection without an answer")]
    HungUp,
}

impl Client {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(socket.to_owned()),
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted(socket.to_owned()),
            _ => ClientError::Io(error),
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// [`ClientError`]. A refusal is an answer: [`Response::Error`].
    pub fn request(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        self.receive()?.ok_or(ClientError::HungUp)
    }

    /// Sends a request; read what comes with [`Self::receive`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        if matches!(request, Request::Log { follow: true }) {
            self.stream.get_ref().set_read_timeout(None)?;
        }
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        Ok(())
    }

    /// The next answer; `None` when the daemon hung up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn receive(&mut self) -> Result<Option<Response>, ClientError> {
        let mut line = Vec::new();
        let longest = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
        self.stream.by_ref().take(longest).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| ClientError::Answer(error.to_string()))
    }
}
