//! `landbridge rekey`: rekey the Child SAs of a connection, or one.

use super::socket::{Which, order};
use super::{Exit, Global};
use crate::control::protocol::Request;

pub(super) fn run(global: &Global, Which { connection, child }: Which) -> Exit {
    order(global, &Request::Rekey { connection, child })
}
