//! `landbridge down`: take a connection, or one child of it, down.

use super::socket::{Which, order};
use super::{Exit, Global};
use crate::control::protocol::Request;

pub(super) fn run(global: &Global, Which { connection, child }: Which) -> Exit {
    order(global, &Request::Down { connection, child })
}
