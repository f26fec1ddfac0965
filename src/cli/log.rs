//! `landbridge log`: what happened, and what happens.

use super::output::{clean, complain, print};
use super::socket::{connect, failed, unexpected};
use super::{Exit, Global};
use crate::control::protocol::{Request, Response};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
}

pub(super) fn run(global: &Global, args: &Args) -> Exit {
    let mut client = match connect(global) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    if let Err(error) = client.send(&Request::Log { follow: args.follow }) {
        return failed(&error);
    }
    loop {
        match client.receive() {
            Ok(Some(Response::Line { line })) => print(&(clean(&line) + "\n")),
            Ok(Some(Response::Done { .. })) => return Exit::Ok,
            Ok(Some(Response::Error { message })) => {
                complain(clean(&message));
                return Exit::Failed;
            }
            Ok(Some(_)) => return unexpected(),
            Ok(None) if args.follow => {
                complain("the daemon ended");
                return Exit::Failed;
            }
            Ok(None) => return Exit::Ok,
            Err(error) => return failed(&error),
        }
    }
}
