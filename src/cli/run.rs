//! `landbridge run`: the gateway, in the foreground.

use super::check::report_errors;
use super::output::complain;
use super::{Exit, Global, logging};
use crate::{config, control};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logging::Format,
}

pub(super) fn run(global: &Global, args: &Args) -> Exit {
    let configuration = match config::load(&global.config) {
        Ok(configuration) => configuration,
        Err(errors) => {
            report_errors(&errors);
            return Exit::Usage;
        }
    };
    logging::start(args.log_format, global.verbose, &configuration.gateway.log_level);
    let socket = global
        .socket
        .clone()
        .unwrap_or_else(|| configuration.gateway.control_socket.clone());
    match control::run(configuration, &socket) {
        Ok(()) => Exit::Ok,
        Err(error) if error.is_not_permitted() => {
            complain(&error);
            complain(
                "it needs CAP_NET_ADMIN, and CAP_NET_BIND_SERVICE for UDP 500; be root, or see configs/landbridge.service. \
                 \"landbridge doctor\" tells what is missing",
            );
            Exit::NotPermitted
        }
        Err(error) => {
            complain(&error);
            Exit::Failed
        }
    }
}
