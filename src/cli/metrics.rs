//! `landbridge metrics`: the page that `metrics_listen` serves, over the control socket.

use super::output::{clean, complain, print};
use super::socket::{connect, failed, unexpected};
use super::{Exit, Global};
use crate::control::protocol::{Request, Response};

pub(super) fn run(global: &Global) -> Exit {
    let mut client = match connect(global) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    if let Err(error) = client.send(&Request::Metrics) {
        return failed(&error);
    }
    loop {
        match client.receive() {
            Ok(Some(Response::Text { text })) => print(&clean(&text)),
            Ok(Some(Response::Done { .. })) => return Exit::Ok,
            Ok(Some(Response::Error { message })) => {
                complain(clean(&message));
                return Exit::Failed;
            }
            Ok(Some(_)) => return unexpected(),
            // Half a page is none.
            Ok(None) => {
                complain("the daemon ended");
                return Exit::Failed;
            }
            Err(error) => return failed(&error),
        }
    }
}
