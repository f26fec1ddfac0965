//! A TOML document whose every key and value knows its place in the file, and a reader that collects all that is wrong.
//!
//! A [`Table`] remembers which keys it was asked for; [`Table::finish`] reports the others with the nearest known one.

use super::ConfigError;
use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A place in the file: an offset in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot(usize);

/// Where the values of a table's keys stand, as far as they are there.
pub(super) type Spots = std::collections::BTreeMap<&'static str, Spot>;

/// What is wrong with one file, so far. Shared by reference while the document is walked.
pub(super) struct Findings<'d> {
    file: PathBuf,
    text: &'d str,
    /// Where each line begins.
    lines: Vec<usize>,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
}

impl<'d> Findings<'d> {
    pub(super) fn new(file: &Path, text: &'d str) -> Self {
        let (errors, warnings) = Default::default();
        Self {
            file: file.to_owned(),
            text,
            lines: std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
            errors,
            warnings,
        }
    }

    /// An error at a place.
    pub(super) fn error(&self, spot: Spot, problem: impl Into<String>, remedy: Option<String>) {
        let (line, column) = self.position(spot);
        self.errors.borrow_mut().push(ConfigError {
            file: self.file.clone(),
            line: Some(line),
            column: Some(column),
            problem: problem.into(),
            remedy,
        });
    }

    /// A warning at a place.
    pub(super) fn warn(&self, spot: Spot, text: impl AsRef<str>) {
        let (line, column) = self.position(spot);
        let text = format!("{}:{line}:{column}: {}", self.file.display(), text.as_ref());
        self.warnings.borrow_mut().push(text);
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, spot: Spot) -> usize {
        self.position(spot).0
    }

    /// The directory that relative paths start from.
    pub(super) fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// Errors in the order of the file, and warnings.
    pub(super) fn into_parts(self) -> (Vec<ConfigError>, Vec<String>) {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|e| (e.line, e.column));
        (errors, self.warnings.into_inner())
    }

    /// Line and column, both from 1; the column counts characters.
    fn position(&self, Spot(offset): Spot) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

/// Parses; all syntax errors go to `findings`.
pub(super) fn parse<'d>(findings: &Findings<'d>) -> Spanned<DeTable<'d>> {
    let (document, errors) = DeTable::parse_recoverable(findings.text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        findings.error(Spot(at), error.message(), None);
    }
    document
}

/// A table being read.
pub(super) struct Table<'a, 'd> {
    findings: &'a Findings<'d>,
    path: String,
    spot: Spot,
    entries: &'a DeTable<'d>,
    asked: RefCell<Vec<&'static str>>,
    found: RefCell<Spots>,
}

impl<'a, 'd> Table<'a, 'd> {
    /// The document itself.
    pub(super) fn root(findings: &'a Findings<'d>, document: &'a Spanned<DeTable<'d>>) -> Self {
        Self::new(findings, String::new(), Spot(document.span().start), document.get_ref())
    }

    fn new(findings: &'a Findings<'d>, path: String, spot: Spot, entries: &'a DeTable<'d>) -> Self {
        Self {
            findings,
            path,
            spot,
            entries,
            asked: RefCell::default(),
            found: RefCell::default(),
        }
    }

    /// Where findings go.
    pub(super) fn findings(&self) -> &'a Findings<'d> {
        self.findings
    }

    /// Where it begins.
    pub(super) fn spot(&self) -> Spot {
        self.spot
    }

    /// Its full name: `connections.cloud.local`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The value of a key, if it is there. The key is known from now on.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a, 'd>> {
        self.asked.borrow_mut().push(key);
        let (name, value) = self.entries.get_key_value(key)?;
        let value = self.value(name, value);
        self.found.borrow_mut().insert(key, value.spot());
        Some(value)
    }

    /// Where the values of the keys asked for stand.
    pub(super) fn spots(&self) -> Spots {
        self.found.borrow().clone()
    }

    /// A table within.
    pub(super) fn table(&self, key: &'static str) -> Option<Self> {
        self.get(key).and_then(|value| value.table())
    }

    /// All entries, for tables whose keys are names the operator chose; in the order of the file.
    pub(super) fn named(&self) -> Vec<(&'a str, Value<'a, 'd>)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries
            .into_iter()
            .map(|(name, value)| (name.get_ref().as_ref(), self.value(name, value)))
            .collect()
    }

    /// Reports the keys nobody asked for.
    pub(super) fn finish(&self) {
        let asked = self.asked.borrow();
        for (name, _) in self.entries {
            let key: &str = name.get_ref();
            if asked.contains(&key) {
                continue;
            }
            let place = if self.path.is_empty() {
                String::new()
            } else {
                format!(" in [{}]", self.path)
            };
            let remedy = nearest(key, asked.iter().copied()).map_or_else(
                || format!("known here: {}", asked.join(", ")),
                |known| format!("did you mean {known:?}?"),
            );
            self.findings.error(
                Spot(name.span().start),
                format!("unknown key {key:?}{place}"),
                Some(remedy),
            );
        }
    }

    fn value(&self, name: &'a Spanned<toml::de::DeString<'d>>, value: &'a Spanned<DeValue<'d>>) -> Value<'a, 'd> {
        let key: &str = name.get_ref();
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Value {
            findings: self.findings,
            path,
            key_spot: Spot(name.span().start),
            span: value.span(),
            value: value.get_ref(),
        }
    }
}

/// A value being read. Readers report a wrong type and return nothing.
pub(super) struct Value<'a, 'd> {
    findings: &'a Findings<'d>,
    path: String,
    key_spot: Spot,
    span: Range<usize>,
    value: &'a DeValue<'d>,
}

impl<'a, 'd> Value<'a, 'd> {
    /// Where the value stands; for a table, where its name stands.
    pub(super) fn spot(&self) -> Spot {
        if matches!(self.value, DeValue::Table(_)) {
            self.key_spot
        } else {
            Spot(self.span.start)
        }
    }

    /// An error at the value, named by its key.
    pub(super) fn error(&self, problem: impl AsRef<str>, remedy: Option<String>) {
        self.findings
            .error(self.spot(), format!("{}: {}", self.path, problem.as_ref()), remedy);
    }

    /// A warning at the value, named by its key.
    pub(super) fn warn(&self, text: impl AsRef<str>) {
        self.findings
            .warn(self.spot(), format!("{}: {}", self.path, text.as_ref()));
    }

    pub(super) fn table(self) -> Option<Table<'a, 'd>> {
        match self.value {
            DeValue::Table(entries) => Some(Table::new(self.findings, self.path, self.key_spot, entries)),
            _ => self.wrong_type("a table"),
        }
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type("a string"),
        }
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(yes) => Some(*yes),
            DeValue::String(word) if matches!(&**word, "yes" | "no") => {
                let word = if word == "yes" { "true" } else { "false" };
                self.error(
                    "true or false is expected",
                    Some(format!("write {word}, without quotes")),
                );
                None
            }
            _ => self.wrong_type("true or false"),
        }
    }

    /// An integer within a range.
    pub(super) fn integer(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(digits) = self.value else {
            return self.wrong_type("an integer");
        };
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).unwrap_or(i128::MAX);
        let found = u64::try_from(number).ok().filter(|n| range.contains(n));
        if found.is_none() {
            self.error(
                format!("{digits} is not between {} and {}", range.start(), range.end()),
                None,
            );
        }
        found
    }

    /// A number with or without a fraction.
    pub(super) fn number(&self) -> Option<f64> {
        let text = match self.value {
            DeValue::Integer(digits) if digits.radix() == 10 => digits.as_str(),
            DeValue::Float(digits) => digits.as_str(),
            _ => return self.wrong_type("a number"),
        };
        text.parse().ok().or_else(|| self.wrong_type("a number"))
    }

    /// Whether it is an integer (to be read with [`Self::integer`]).
    pub(super) fn is_integer(&self) -> bool {
        matches!(self.value, DeValue::Integer(_))
    }

    /// Whether it is a string (to be read with [`Self::string`]).
    pub(super) fn is_string(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// The elements of a list of strings, each with its own place.
    pub(super) fn strings(&self) -> Option<Vec<(&'a str, Self)>> {
        let DeValue::Array(items) = self.value else {
            let remedy = self.is_string().then(|| "put it in brackets: [\"...\"]".to_owned());
            self.error(
                format!("a list of strings is expected, not {}", kind(self.value)),
                remedy,
            );
            return None;
        };
        let mut list = Vec::new();
        for item in items {
            let element = Value {
                findings: self.findings,
                path: self.path.clone(),
                key_spot: self.key_spot,
                span: item.span(),
                value: item.get_ref(),
            };
            list.push((element.string()?, element));
        }
        Some(list)
    }

    fn wrong_type<T>(&self, wanted: &str) -> Option<T> {
        self.error(format!("{wanted} is expected, not {}", kind(self.value)), None);
        None
    }
}

/// The known word nearest to one that is not known, if any is near enough to be meant, or begins with it.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> Option<&'k str> {
    let word = word.to_lowercase();
    let longer = known
        .clone()
        .into_iter()
        .find(|k| word.len() > 2 && k.starts_with(&word));
    let near = known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&word, k), k))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, k)| *distance <= k.len().max(word.len()).div_ceil(3))
        .map(|(_, k)| k);
    near.or(longer)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
