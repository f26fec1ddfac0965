//! `GET /metrics` for Prometheus, and nothing else of HTTP/1.1 (RFC 9112): one request a connection, with bounds on everything
//! a client does. Why not a web server: docs/decisions (metrics).

use super::RunError;
use super::server::{self, Answer, Order};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

/// Scrapes at a time; more wait in the listen queue.
const MOST_CLIENTS: usize = 8;
/// Longest request head taken.
const LONGEST_HEAD: usize = 8 * 1024;
/// Most header fields taken.
const MOST_FIELDS: usize = 64;
/// For the whole of a request and its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What the page is, in the words of OpenMetrics 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What is answered to a request that is not granted.
type Refusal = (u16, &'static str);

/// Listens.
///
/// # Errors
/// [`RunError`] with the address.
pub(super) async fn open(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|cause| RunError::Start {
        what: "metrics_listen",
        cause: io::Error::new(cause.kind(), format!("{address}: {cause}")),
    })
}

/// Serves until the runtime ends; each client for as long as `patience`.
pub(super) async fn serve(listener: TcpListener, orders: mpsc::Sender<(Order, Answer)>, patience: Duration) {
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, client)) => {
                let orders = orders.clone();
                drop(tokio::spawn(async move {
                    match tokio::time::timeout(patience, answer(stream, &orders)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%client, %error, "metrics"),
                        Err(_) => tracing::debug!(%client, "metrics: the client is too slow"),
                    }
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::debug!(%error, "metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, orders: &mpsc::Sender<(Order, Answer)>) -> io::Result<()> {
    let asked = request(&mut stream).await?;
    let page = match asked {
        Ok(()) => server::metrics(orders).await.ok_or((503, "Service Unavailable")),
        Err(refusal) => Err(refusal),
    };
    let (status, kind, body) = match page {
        Ok(page) => ("200 OK".to_owned(), OPENMETRICS, page),
        Err((code, reason)) => {
            let status = format!("{code} {reason}");
            let body = format!("{status}: GET /metrics is all there is\n");
            (status, PLAIN, body)
        }
    };
    // RFC 9110 §15.5.6: "The origin server MUST generate an Allow header field in a 405 response".
    let allow = if status.starts_with("405") {
        "Allow: GET\r\n"
    } else {
        ""
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads until it is clear what is asked for.
async fn request(stream: &mut TcpStream) -> io::Result<Result<(), Refusal>> {
    let mut head = Vec::with_capacity(1024);
    let mut block = [0; 1024];
    loop {
        let got = stream.read(&mut block).await?;
        if got == 0 {
            return Ok(Err((400, "Bad Request")));
        }
        head.extend_from_slice(&block[..got]);
        if let Some(verdict) = verdict(&head) {
            return Ok(verdict);
        }
    }
}

/// What becomes of a request of which this has come; nothing while more of it is needed.
fn verdict(head: &[u8]) -> Option<Result<(), Refusal>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if head.len() < LONGEST_HEAD => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Err((431, "Request Header Fields Too Large")));
        }
        Err(_) => return Some(Err((400, "Bad Request"))),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    Some(match (request.method, path) {
        (Some("GET"), "/metrics") => Ok(()),
        (_, "/metrics") => Err((405, "Method Not Allowed")),
        _ => Err((404, "Not Found")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted() {
        let code = |head: &[u8]| verdict(head).map(|verdict| verdict.map_err(|(code, _)| code));
        for (head, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Some(Ok(()))),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", Some(Ok(()))),
            ("GET / HTTP/1.1\r\n\r\n", Some(Err(404))),
            ("GET /metrics/../x HTTP/1.1\r\n\r\n", Some(Err(404))),
            ("POST /metrics HTTP/1.1\r\n\r\n", Some(Err(405))),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Some(Err(405))),
            ("GET /metrics HTTP/1.1\r\n", None),
            ("", None),
            ("GET /metrics HTTP/9.9\r\n\r\n", Some(Err(400))),
            ("GET /metrics\r\n\r\n", Some(Err(400))),
            ("\u{16}\u{3}\u{1}\r\n\r\n", Some(Err(400))),
        ] {
            assert_eq!(code(head.as_bytes()), expected, "{head:?}");
        }
        assert_eq!(code(&[b'a'; LONGEST_HEAD]), Some(Err(431)));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MOST_FIELDS + 1));
        assert_eq!(code(many.as_bytes()), Some(Err(431)));
    }

    /// A server that answers every order for metrics with an empty daemon's.
    async fn served(patience: Duration) -> SocketAddr {
        let listener = open("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut orders) = mpsc::channel(1);
        drop(tokio::spawn(serve(listener, sender, patience)));
        drop(tokio::spawn(async move {
            while let Some((order, answer)) = orders.recv().await {
                assert!(matches!(order, Order::Metrics));
                answer.metrics(crate::control::metrics::Gathered::default());
            }
        }));
        address
    }

    async fn said(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn over_a_socket() {
        let address = served(PATIENCE).await;
        // Clients that say nothing hold some places, but not all.
        let mut idle = Vec::new();
        for _ in 0..MOST_CLIENTS - 1 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let page = said(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text;"),
            "{page}"
        );
        assert!(page.ends_with("# EOF\n"), "{page}");
        let page = said(address, b"PUT /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n").await;
        assert!(
            page.starts_with("HTTP/1.1 405 ") && page.contains("\r\nAllow: GET\r\n"),
            "{page}"
        );
    }

    #[tokio::test]
    async fn who_is_silent_is_left() {
        let address = served(Duration::from_millis(50)).await;
        let mut idle = Vec::new();
        for _ in 0..=MOST_CLIENTS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        for stream in &mut idle {
            assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
        }
    }
}
