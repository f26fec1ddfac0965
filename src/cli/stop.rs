//! `landbridge stop`: delete all SAs and end the daemon.

use super::socket::order;
use super::{Exit, Global};
use crate::control::protocol::Request;

pub(super) fn run(global: &Global) -> Exit {
    order(global, &Request::Stop)
}
