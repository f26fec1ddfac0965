//! A strict reader of OpenMetrics 1.0 text: what it takes, every scraper takes.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};

/// A page: samples by name with labels in the order of their names, as `name{a="b",c="d"}`.
#[derive(Debug, Default)]
pub struct Page {
    /// Values.
    pub samples: BTreeMap<String, f64>,
    /// Kinds of families.
    pub families: BTreeMap<String, String>,
}

impl Page {
    /// Reads a page.
    ///
    /// # Errors
    /// The first line that is wrong, and why.
    pub fn read(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("it does not end in # EOF")?;
        let mut page = Self::default();
        let mut family = String::new();
        let mut told = BTreeSet::new();
        for line in body.split_terminator('\n') {
            let wrong = |why: &str| Err(format!("{line:?}: {why}"));
            if let Some(rest) = line.strip_prefix("# ") {
                let (word, rest) = rest.split_once(' ').ok_or_else(|| format!("{line:?}"))?;
                let (name, rest) = rest.split_once(' ').ok_or_else(|| format!("{line:?}"))?;
                if word == "TYPE" {
                    if !["counter", "gauge", "info"].contains(&rest) || !is_name(name) {
                        return wrong("no kind of family");
                    }
                    if page.families.insert(name.to_owned(), rest.to_owned()).is_some() {
                        return wrong("a family in two places");
                    }
                    if rest == "counter" && name.ends_with("_total") {
                        return wrong("the suffix is the samples'");
                    }
                    name.clone_into(&mut family);
                    told.clear();
                    continue;
                }
                if name != family || !told.insert(word.to_owned()) {
                    return wrong("of another family, or twice");
                }
                match word {
                    "HELP" if !rest.is_empty() => unescaped(rest).map(drop)?,
                    "UNIT" if family.ends_with(&format!("_{rest}")) => {}
                    _ => return wrong("neither HELP nor UNIT as it should be"),
                }
                continue;
            }
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            let (name, rest) = line.split_at(end);
            let suffix = match page.families.get(&family).map(String::as_str) {
                Some("counter") => "_total",
                Some("info") => "_info",
                _ => "",
            };
            if family.is_empty() || name != format!("{family}{suffix}") {
                return wrong("a sample outside of its family");
            }
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => labels(rest).map_err(|why| format!("{line:?}: {why}"))?,
                None => (BTreeMap::new(), rest),
            };
            let value = value.strip_prefix(' ').unwrap_or_default();
            let number: f64 = value.parse().map_err(|_| format!("{line:?}: no number"))?;
            if suffix == "_total" && (number < 0.0 || !number.is_finite()) || suffix == "_info" && value != "1" {
                return wrong("no value of its kind");
            }
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            let key = if labels.is_empty() {
                name.to_owned()
            } else {
                format!("{name}{{{}}}", labels.join(","))
            };
            if page.samples.insert(key, number).is_some() {
                return wrong("a second sample with these labels");
            }
        }
        Ok(page)
    }

    /// A sample's value.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn get(&self, sample: &str) -> f64 {
        let found = self.samples.get(sample);
        *found.unwrap_or_else(|| panic!("{sample} is not among {:#?}", self.samples.keys()))
    }

    /// All counters, as `(sample, value)`.
    pub fn counters(&self) -> impl Iterator<Item = (&String, f64)> {
        let counters = self.samples.iter().filter(|(key, _)| {
            let name = key.split('{').next().unwrap_or_default();
            let family = name.strip_suffix("_total").unwrap_or_default();
            self.families.get(family).is_some_and(|kind| kind == "counter")
        });
        counters.map(|(key, value)| (key, *value))
    }
}

fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(letter) && text.chars().all(|c| letter(c) || c.is_ascii_digit())
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut list = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("no label")?;
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (value, after) = after.split_at(end.ok_or("no closing quote")?);
        if !is_name(name) || list.insert(name.to_owned(), unescaped(value)?).is_some() {
            return Err(format!("label {name:?}"));
        }
        match after.get(1..2) {
            Some(",") => rest = &after[2..],
            Some("}") => return Ok((list, &after[2..])),
            _ => return Err("after a label".to_owned()),
        }
    }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => plain.push('\n'),
                Some(other @ ('\\' | '"')) => plain.push(other),
                other => return Err(format!("\\{other:?} stands for nothing")),
            },
            '"' => return Err("a quote that is not escaped".to_owned()),
            other => plain.push(other),
        }
    }
    Ok(plain)
}
