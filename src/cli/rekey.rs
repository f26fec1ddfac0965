//! `landbridge rekey`: rekey the Child SAs of a connection, or one, or the IKE SA.

use super::socket::{Which, order};
use super::{Exit, Global};
use crate::control::protocol::Request;

/// What is rekeyed.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// The IKE SA, not the Child SAs under it
    #[arg(long, conflicts_with = "child")]
    ike: bool,
}

pub(super) fn run(global: &Global, Arguments { which, ike }: Arguments) -> Exit {
    let Which { connection, child } = which;
    if ike {
        order(global, &Request::RekeyIke { connection })
    } else {
        order(global, &Request::Rekey { connection, child })
    }
}
