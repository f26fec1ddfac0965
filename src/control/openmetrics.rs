//! The text format of OpenMetrics 1.0, which Prometheus reads: families of samples, and how their parts are written.

use std::fmt::{Display, Write as _};

/// What a family's numbers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It only grows; its samples' name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Labels are what it tells; its samples' name ends in `_info`.
    Info,
}

/// A page of metrics.
#[derive(Default)]
pub(super) struct Page {
    text: String,
    /// The name of the samples of the present family.
    name: String,
}

impl Page {
    /// Begins a family. All its samples follow before the next. `name` is without the suffix of its kind; a unit that it ends
    /// in is declared.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (word, suffix) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Info => ("info", "_info"),
        };
        self.name = format!("{name}{suffix}");
        // Writing to a String can't fail.
        let _ = writeln!(self.text, "# TYPE {name} {word}");
        for unit in ["seconds", "bytes"] {
            if name.ends_with(&format!("_{unit}")) {
                let _ = writeln!(self.text, "# UNIT {name} {unit}");
            }
        }
        let _ = writeln!(self.text, "# HELP {name} {}", escaped(help));
    }

    /// A sample with labels, as made by [`label`] and joined by commas.
    pub(super) fn sample(&mut self, labels: impl Display, value: impl Display) {
        let _ = writeln!(self.text, "{}{{{labels}}} {value}", self.name);
    }

    /// A sample without labels.
    pub(super) fn plain(&mut self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// The whole page.
    pub(super) fn end(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

/// `name="value"`, escaped.
pub(super) fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", escaped(value))
}

/// Within quotes, and in HELP.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page() {
        let mut page = Page::default();
        page.family("a_bytes", Kind::Counter, "Octets");
        page.sample(label("b", "c\"d\\e\nf"), u64::MAX);
        page.family("g_seconds", Kind::Gauge, "Time");
        page.plain(0.25);
        let expected = "# TYPE a_bytes counter\n# UNIT a_bytes bytes\n# HELP a_bytes Octets\n\
                        a_bytes_total{b=\"c\\\"d\\\\e\\nf\"} 18446744073709551615\n\
                        # TYPE g_seconds gauge\n# UNIT g_seconds seconds\n# HELP g_seconds Time\ng_seconds 0.25\n# EOF\n";
        assert_eq!(page.end(), expected);
    }
}
