//! The control thread: one tokio runtime that owns the IKE endpoint.

pub mod clock;
pub mod links;
pub mod resolve;
pub mod sockets;
