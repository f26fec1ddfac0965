//! `landbridge reload`: read the configuration again.

use super::socket::order;
use super::{Exit, Global};
use crate::control::protocol::Request;

pub(super) fn run(global: &Global) -> Exit {
    order(global, &Request::Reload)
}
