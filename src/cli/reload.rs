//! `landbridge reload`: read the configuration again.

use super::socket::order;
use super::{Exit, Global};
use crate::control::protocol::Request;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only show what would be added, removed, restarted and changed
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(global: &Global, args: &Args) -> Exit {
    let dry_run = args.dry_run;
    order(global, &Request::Reload { dry_run })
}
