//! `landbridge redirect`: send the peers of a connection, or of all, to another gateway (RFC 5685).

use super::socket::order;
use super::{Exit, Global};
use crate::control::protocol::Request;

/// Whose peers, and where to.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// The connection's name
    #[arg(required_unless_present = "all")]
    connection: Option<String>,
    /// All connections
    #[arg(long, conflicts_with = "connection")]
    all: bool,
    /// The other gateway's address or name [default: redirect_to of the configuration]
    #[arg(long, value_name = "GATEWAY")]
    to: Option<String>,
}

pub(super) fn run(global: &Global, Arguments { connection, to, .. }: Arguments) -> Exit {
    order(global, &Request::Redirect { connection, to })
}
