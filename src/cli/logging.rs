//! Logging to stderr.

use tracing_subscriber::EnvFilter;

/// The variable that goes before everything else.
const VARIABLE: &str = "LANDBRIDGE_LOG";

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Format {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging: `LANDBRIDGE_LOG`, or `-v`, or the level of the configuration.
pub(super) fn start(format: Format, verbose: u8, configured: &str) {
    let variable = std::env::var(VARIABLE).ok();
    let directives = directives(variable.as_deref(), verbose, configured);
    let filter = EnvFilter::builder().parse_lossy(directives);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let done = match format {
        Format::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        // The journal has its own time and shows no colours.
        Format::Text if std::env::var_os("JOURNAL_STREAM").is_some() => {
            builder.without_time().with_ansi(false).with_target(false).try_init()
        }
        Format::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(terminal).with_target(false).try_init()
        }
    };
    if let Err(error) = done {
        super::output::complain(error);
    }
}

fn directives(variable: Option<&str>, verbose: u8, configured: &str) -> String {
    match (variable, verbose) {
        (Some(text), _) if !text.is_empty() => text.to_owned(),
        (_, 0) => configured.to_owned(),
        (_, 1) => "info,landbridge=debug,landbridge_proto=debug".to_owned(),
        _ => "debug,landbridge=trace,landbridge_proto=trace".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_goes_before_the_flag_before_the_configuration() {
        assert_eq!(directives(Some("warn"), 1, "info"), "warn");
        assert_eq!(directives(Some(""), 0, "error"), "error");
        assert!(directives(None, 1, "error").contains("landbridge=debug"));
        assert_eq!(directives(None, 0, "error"), "error");
    }
}
