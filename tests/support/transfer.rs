//! Data by TCP between two namespaces, compared by SHA-256.

use super::World;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

/// Twenty megabytes: what each scenario moves each way.
pub const TWENTY_MB: usize = 20_000_000;

/// Runs a closure on a thread of its own in a namespace.
pub fn inside<T: Send + 'static>(
    world: &World,
    ns: &str,
    what: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let path = format!("/run/netns/{}", world.ns(ns));
    thread::spawn(move || {
        let file = File::open(&path).unwrap();
        // SAFETY: the descriptor is an open namespace file; only this thread moves.
        let moved = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "setns {path}");
        what()
    })
}

/// Sends `len` octets from one namespace to an address in another and compares the hashes.
pub fn one_way(world: &World, from: &str, to: &str, address: &str, len: usize) {
    let address = address.to_owned();
    let (port_sender, port) = std::sync::mpsc::channel();
    let bind = SocketAddr::new(address.parse().unwrap(), 0);
    let receiver = inside(world, to, move || {
        let listener = TcpListener::bind(bind).unwrap();
        port_sender.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut hash, mut total, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
        loop {
            let got = stream.read(&mut buffer).expect("the transfer stalled");
            if got == 0 {
                return (total, hash.finalize().to_vec());
            }
            total += got;
            hash.update(&buffer[..got]);
        }
    });
    let port = port.recv().expect("the receiver could not listen");
    let sender = inside(world, from, move || {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let mut stream =
            TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("no TCP connection through the tunnel");
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut hash, mut left, mut state) = (Sha256::new(), len, 0x9e37_79b9_7f4a_7c15_u64);
        let mut block = vec![0; 1 << 18];
        while left > 0 {
            for word in block.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            let now = left.min(block.len());
            hash.update(&block[..now]);
            stream.write_all(&block[..now]).expect("the transfer stalled");
            left -= now;
        }
        hash.finalize().to_vec()
    });
    let sent = sender.join().expect("the sender failed");
    let (total, received) = receiver.join().expect("the receiver failed");
    assert_eq!((total, received), (len, sent), "what arrived is not what was sent");
}

/// Twenty megabytes each way between the hosts of [`World::two_sites`].
pub fn both_ways(world: &World) {
    one_way(world, "ha", "hb", "10.2.0.2", TWENTY_MB);
    one_way(world, "hb", "ha", "10.1.0.2", TWENTY_MB);
}

/// Whether a ping gets through within a second.
pub fn ping(world: &World, from: &str, to: &str) -> bool {
    world
        .command(from, "ping")
        .args(["-q", "-c", "1", "-W", "1", to])
        .output()
        .is_ok_and(|o| o.status.success())
}
