//! `landbridge run`: the gateway, in the foreground.

use super::check::report_errors;
use super::output::complain;
use super::{Exit, Global, logging};
use crate::control::key_export::KeyExport;
use crate::{config, control};
use std::path::{Path, PathBuf};

/// Without this one in the environment no keys are exported: a line slipped into a unit file or a script is not enough.
const ALLOW_KEY_EXPORT: &str = "LANDBRIDGE_ALLOW_KEY_EXPORT";

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: logging::Format,
    /// Write the keys of all SAs to FILE, to decrypt captures; needs LANDBRIDGE_ALLOW_KEY_EXPORT=1 in the environment
    #[arg(long, value_name = "FILE")]
    insecure_export_keys: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &Args) -> Exit {
    let configuration = match config::load(&global.config) {
        Ok(configuration) => configuration,
        Err(errors) => {
            report_errors(&errors);
            return Exit::Usage;
        }
    };
    let keys = match args.insecure_export_keys.as_deref().map(export).transpose() {
        Ok(keys) => keys,
        Err(exit) => return exit,
    };
    logging::start(args.log_format, global.verbose, &configuration.gateway.log_level);
    let socket = global
        .socket
        .clone()
        .unwrap_or_else(|| configuration.gateway.control_socket.clone());
    match control::run(configuration, &socket, keys) {
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

/// The files for the keys, if that is really meant.
fn export(path: &Path) -> Result<KeyExport, Exit> {
    if std::env::var_os(ALLOW_KEY_EXPORT).is_none_or(|value| value != "1") {
        complain(format!(
            "--insecure-export-keys gives away everything the tunnels protect; if that is what you want, set {ALLOW_KEY_EXPORT}=1 \
             in the environment as well"
        ));
        return Err(Exit::Usage);
    }
    KeyExport::create(path).map_err(|error| {
        complain(format!(
            "--insecure-export-keys: {error}; name a file that does not exist yet"
        ));
        Exit::Usage
    })
}
