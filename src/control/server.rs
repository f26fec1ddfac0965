//! The control socket: mode 0660, the caller's credentials checked, one JSON object a line.

use super::RunError;
use super::metrics::Gathered;
use super::protocol::{LONGEST_LINE, Request, Response, Status};
use crate::config::another_gateway;
use landbridge_proto::policy::sad::{ChildName, ConnectionName};
use landbridge_proto::wire::GatewayIdentity;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Clients served at a time; more wait in the listen queue.
const MOST_CLIENTS: usize = 64;
/// A client that does not take its answer is dropped.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests are short; what is longer is not one.
const LONGEST_REQUEST: u64 = 64 * 1024;

/// A long text is sent in pieces of about so many octets.
const PIECE: usize = 64 * 1024;

/// What a client wants of the daemon.
pub enum Order {
    /// A snapshot.
    Status,
    /// The numbers for [`Request::Metrics`].
    Metrics,
    /// The log.
    Log,
    /// Read the configuration again.
    Reload {
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Bring up.
    Up {
        connection: ConnectionName,
        child: Option<ChildName>,
    },
    /// Take down.
    Down {
        connection: ConnectionName,
        child: Option<ChildName>,
    },
    /// Rekey.
    Rekey {
        connection: ConnectionName,
        child: Option<ChildName>,
    },
    /// Send the peers of one connection, or of all, to another gateway.
    Redirect {
        connection: Option<ConnectionName>,
        to: Option<GatewayIdentity>,
    },
    /// Rekey the IKE SA.
    RekeyIke { connection: ConnectionName },
    /// End.
    Stop,
}

/// Takes the answer to one order.
pub struct Answer(oneshot::Sender<Answered>);

enum Answered {
    Done(Result<String, String>),
    Status(Box<Status>),
    Metrics(Box<Gathered>),
    Log(Vec<String>, broadcast::Receiver<String>),
}

impl Answer {
    /// Carried out, or not. (A client that is gone wants no answer.)
    pub fn done(self, result: Result<String, String>) {
        drop(self.0.send(Answered::Done(result)));
    }

    /// To [`Order::Status`].
    pub fn status(self, status: Status) {
        drop(self.0.send(Answered::Status(Box::new(status))));
    }

    /// To [`Order::Metrics`].
    pub(super) fn metrics(self, gathered: Gathered) {
        drop(self.0.send(Answered::Metrics(Box::new(gathered))));
    }

    /// To [`Order::Log`].
    pub fn log(self, recent: Vec<String>, follow: broadcast::Receiver<String>) {
        drop(self.0.send(Answered::Log(recent, follow)));
    }
}

/// The listening socket and its clients.
pub struct ControlServer {
    listener: Option<UnixListener>,
    path: PathBuf,
    sender: mpsc::Sender<(Order, Answer)>,
    orders: mpsc::Receiver<(Order, Answer)>,
}

impl ControlServer {
    /// Listens at `path`. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`RunError`]: another daemon listens there, or the directory may not be written.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let listener = listen(path).map_err(|cause| RunError::Start {
            what: "the control socket",
            cause: io::Error::new(cause.kind(), format!("{}: {cause}", path.display())),
        })?;
        let (sender, orders) = mpsc::channel(MOST_CLIENTS);
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
            sender,
            orders,
        })
    }

    /// For others that have orders.
    pub(super) fn sender(&self) -> mpsc::Sender<(Order, Answer)> {
        self.sender.clone()
    }

    /// The next order of any client.
    pub async fn next(&mut self) -> (Order, Answer) {
        if let Some(listener) = self.listener.take() {
            drop(tokio::spawn(accept(
                listener,
                self.sender.clone(),
                owner_of(&self.path),
            )));
        }
        match self.orders.recv().await {
            Some(order) => order,
            // We hold a sender ourselves, so the channel is never closed.
            None => std::future::pending().await,
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "control socket");
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if path.exists() && std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another landbridge is running and listens there",
        ));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
    {
        fs::create_dir_all(folder)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// User and group that own the socket: who else may speak to the daemon.
fn owner_of(path: &Path) -> (u32, u32) {
    fs::metadata(path).map_or((0, 0), |metadata| (metadata.uid(), metadata.gid()))
}

async fn accept(listener: UnixListener, orders: mpsc::Sender<(Order, Answer)>, owner: (u32, u32)) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MOST_CLIENTS));
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let orders = orders.clone();
                drop(tokio::spawn(async move {
                    if let Err(error) = serve(stream, &orders, owner).await {
                        tracing::debug!(%error, "control client");
                    }
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Root, the daemon's own user, and the socket's group. The file's mode says the same; this holds also where the
/// directory or the mode was changed.
fn may_command(caller: &UCred, (uid, gid): (u32, u32)) -> bool {
    caller.uid() == 0 || caller.uid() == uid || (caller.gid() == gid && gid != 0)
}

async fn serve(stream: UnixStream, orders: &mpsc::Sender<(Order, Answer)>, owner: (u32, u32)) -> io::Result<()> {
    let allowed = may_command(&stream.peer_cred()?, owner);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(LONGEST_REQUEST).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        if !allowed {
            let message = "not permitted: be root, or in the group of the control socket".to_owned();
            return send(&mut writer, &Response::Error { message }).await;
        }
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let message = format!("the request is not understood: {error}");
                return send(&mut writer, &Response::Error { message }).await;
            }
        };
        let follow = matches!(request, Request::Log { follow: true });
        let order = match request {
            Request::Version => {
                let version = env!("CARGO_PKG_VERSION").to_owned();
                send(&mut writer, &Response::Version { version }).await?;
                continue;
            }
            Request::Status => Order::Status,
            Request::Metrics => Order::Metrics,
            Request::Log { .. } => Order::Log,
            Request::Reload { dry_run } => Order::Reload { dry_run },
            Request::Stop => Order::Stop,
            Request::Up { connection, child } => Order::Up {
                connection: connection.into(),
                child: child.map(Into::into),
            },
            Request::Down { connection, child } => Order::Down {
                connection: connection.into(),
                child: child.map(Into::into),
            },
            Request::RekeyIke { connection } => Order::RekeyIke {
                connection: connection.into(),
            },
            Request::Redirect { connection, to } => {
                let to = match to.as_deref().map(another_gateway).transpose() {
                    Ok(to) => to,
                    Err((message, _)) => {
                        send(&mut writer, &Response::Error { message }).await?;
                        continue;
                    }
                };
                let connection = connection.map(Into::into);
                Order::Redirect { connection, to }
            }
            Request::Rekey { connection, child } => Order::Rekey {
                connection: connection.into(),
                child: child.map(Into::into),
            },
        };
        let (sender, answer) = oneshot::channel();
        if orders.send((order, Answer(sender))).await.is_err() {
            return Ok(());
        }
        match answer.await {
            Ok(Answered::Done(Ok(message))) => send(&mut writer, &Response::Done { message }).await?,
            Ok(Answered::Done(Err(message))) => send(&mut writer, &Response::Error { message }).await?,
            Ok(Answered::Status(status)) => send(&mut writer, &Response::Status { status }).await?,
            Ok(Answered::Metrics(gathered)) => send_metrics(&mut writer, gathered).await?,
            Ok(Answered::Log(recent, lines)) => send_log(&mut writer, recent, follow.then_some(lines)).await?,
            Err(_) => {
                let message = "the daemon is stopping".to_owned();
                send(&mut writer, &Response::Error { message }).await?;
            }
        }
    }
}

/// Asks the daemon for its numbers and writes them down; `None` if it is stopping.
pub(super) async fn metrics(orders: &mpsc::Sender<(Order, Answer)>) -> Option<String> {
    let (sender, answer) = oneshot::channel();
    orders.send((Order::Metrics, Answer(sender))).await.ok()?;
    match answer.await {
        Ok(Answered::Metrics(gathered)) => written(gathered).await.ok(),
        _ => None,
    }
}

/// With thousands of connections it takes a while: not on the thread of the key exchange.
async fn written(gathered: Box<Gathered>) -> io::Result<String> {
    Ok(tokio::task::spawn_blocking(move || gathered.text()).await?)
}

/// In pieces of whole lines.
async fn send_metrics(writer: &mut (impl AsyncWriteExt + Unpin), gathered: Box<Gathered>) -> io::Result<()> {
    let page = written(gathered).await?;
    let mut text = String::with_capacity(PIECE * 2);
    for line in page.split_inclusive('\n') {
        text.push_str(line);
        if text.len() >= PIECE {
            let text = std::mem::take(&mut text);
            send(writer, &Response::Text { text }).await?;
        }
    }
    send(writer, &Response::Text { text }).await?;
    send(writer, &Response::Done { message: String::new() }).await
}

async fn send_log(
    writer: &mut (impl AsyncWriteExt + Unpin),
    recent: Vec<String>,
    follow: Option<broadcast::Receiver<String>>,
) -> io::Result<()> {
    for line in recent {
        send(writer, &Response::Line { line }).await?;
    }
    let Some(mut lines) = follow else {
        return send(writer, &Response::Done { message: String::new() }).await;
    };
    loop {
        let line = match lines.recv().await {
            Ok(line) => line,
            Err(broadcast::error::RecvError::Lagged(missed)) => format!("({missed} lines were lost: read faster)"),
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        send(writer, &Response::Line { line }).await?;
    }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    if line.len() >= LONGEST_LINE {
        let message = "the answer is too long".to_owned();
        line = serde_json::to_vec(&Response::Error { message })?;
    }
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, writer.write_all(&line)).await?
}
