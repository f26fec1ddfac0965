//! Printing: to a pipe that may be closed, and in words for people.

use std::io::Write;
use std::time::Duration;

/// Prints to stdout. A reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// Prints a message to stderr.
pub(super) fn complain(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "landbridge: {text}"));
}

/// Prints a value as JSON, for programs.
pub(super) fn json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&(text + "\n")),
        Err(error) => complain(error),
    }
}

/// `3h 51m`: the two largest units that matter.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [
        ("d", seconds / 86_400),
        ("h", seconds / 3600 % 24),
        ("m", seconds / 60 % 60),
        ("s", seconds % 60),
    ];
    let first = units.iter().position(|(_, n)| *n > 0).unwrap_or(3);
    let shown = units[first..].iter().take(2).filter(|(_, n)| *n > 0);
    let text: Vec<String> = shown.map(|(unit, n)| format!("{n}{unit}")).collect();
    if text.is_empty() {
        format!("{}ms", duration.as_millis())
    } else {
        text.join(" ")
    }
}

/// `1.4 GB`.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn octets(octets: u64) -> String {
    let (mut value, mut unit) = (octets as f64, "B");
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    if unit == "B" {
        format!("{octets} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// Text that came over a socket, fit for a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let seconds = |s| duration(Duration::from_secs(s));
        assert_eq!(
            [seconds(5), seconds(3600), seconds(13_860), seconds(90_061)],
            ["5s", "1h", "3h 51m", "1d 1h"]
        );
        assert_eq!(duration(Duration::from_millis(250)), "250ms");
        assert_eq!(
            [octets(999), octets(1000), octets(999_960), octets(1_400_000_000)],
            ["999 B", "1.0 kB", "1.0 MB", "1.4 GB"]
        );
        assert_eq!(clean("a\u{1b}[31mb\n"), "a\u{fffd}[31mb\n");
    }
}
