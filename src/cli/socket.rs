//! Asking the daemon.

use super::output::{clean, complain, print};
use super::{Exit, Global};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Request, Response};

/// A connection, and one of its children if wanted.
#[derive(clap::Args, Debug)]
pub(super) struct Which {
    /// The connection's name
    pub connection: String,
    /// One child of it
    pub child: Option<String>,
}

/// Connects; says why if it can't.
pub(super) fn connect(global: &Global) -> Result<Client, Exit> {
    Client::connect(&global.socket()).map_err(|error| failed(&error))
}

/// Says what went wrong.
pub(super) fn failed(error: &ClientError) -> Exit {
    complain(error);
    if matches!(error, ClientError::NotPermitted(_)) {
        Exit::NotPermitted
    } else {
        Exit::Failed
    }
}

/// An answer that this request can't have.
pub(super) fn unexpected() -> Exit {
    failed(&ClientError::Answer("it answers another question".to_owned()))
}

/// Sends a request whose answer is a sentence.
pub(super) fn order(global: &Global, request: &Request) -> Exit {
    let mut client = match connect(global) {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    match client.request(request) {
        Ok(Response::Done { message }) => {
            print(&(clean(&message) + "\n"));
            Exit::Ok
        }
        Ok(Response::Error { message }) => {
            complain(clean(&message));
            Exit::Failed
        }
        Ok(_) => unexpected(),
        Err(error) => failed(&error),
    }
}
