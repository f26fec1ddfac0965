//! The configuration reader over files mutated from the examples: whatever stands in a file, it says what is wrong and where,
//! and does not panic. Bounded and from a fixed seed; `LANDBRIDGE_FUZZ_ROUNDS` makes it longer.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use landbridge::config;
use std::fs;
use std::path::Path;

/// A small generator of numbers (xorshift64*), since this crate's tests have no other.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % most.max(1)
    }
}

/// Pieces that TOML or our own syntaxes give a meaning.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "=",
    ",",
    ".",
    "#",
    "\n",
    "\\u0000",
    "\u{0}",
    "\u{feff}",
    "%any",
    "0",
    "-1",
    "1e9",
    "99999999999999999999",
    "true",
    "never",
    "1h",
    "18446744073709551615s",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/33",
    "[tcp/0-65535]",
    "aes256gcm16",
    "modp2048",
    "x25519",
    "psk",
    "id = ",
    "connections",
    "gateway",
    "children",
    "é",
    "\u{202e}",
];

fn mutate(text: &mut String, other: &str, numbers: &mut Numbers) {
    let place = |text: &str, numbers: &mut Numbers| {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        places[numbers.below(places.len())]
    };
    for _ in 0..=numbers.below(4) {
        let at = place(text, numbers);
        match numbers.below(6) {
            0 => {
                let end = place(text, numbers).max(at).min(at + 30);
                let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap();
                text.replace_range(at..end, "");
            }
            1 | 2 => text.insert_str(at, PIECES[numbers.below(PIECES.len())]),
            3 => {
                // A line once more, somewhere.
                let lines: Vec<&str> = text.lines().collect();
                if let Some(line) = lines.get(numbers.below(lines.len())) {
                    let line = format!("\n{line}\n");
                    text.insert_str(at, &line);
                }
            }
            4 => {
                let lines: Vec<&str> = other.lines().collect();
                if let Some(line) = lines.get(numbers.below(lines.len())) {
                    text.insert_str(at, &format!("\n{line}\n"));
                }
            }
            _ => text.truncate(at),
        }
    }
}

#[test]
fn any_file_is_judged_without_a_panic() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = Vec::new();
    for folder in ["configs", "tests/config-cases"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "toml") {
                seeds.push(fs::read_to_string(&path).unwrap());
            }
        }
    }
    seeds.sort();
    assert!(seeds.len() > 10);
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let rounds: usize = std::env::var("LANDBRIDGE_FUZZ_ROUNDS").map_or(1, |text| text.parse().unwrap());
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..rounds * 4000 {
        let mut text = seeds[numbers.below(seeds.len())].clone();
        let other = seeds[numbers.below(seeds.len())].clone();
        mutate(&mut text, &other, &mut numbers);
        // The path is only named in errors, and keys would be looked for beside it.
        match config::parse(Path::new("/nowhere/landbridge.toml"), &text) {
            Ok(_) => taken += 1,
            Err(errors) => {
                refused += 1;
                assert!(!errors.is_empty(), "refused without a reason:\n{text}");
                let lines = text.lines().count() + 2;
                for error in errors {
                    let told = error.to_string();
                    assert!(told.len() < 20_000, "{told}");
                    assert!(error.line.is_none_or(|line| line <= lines), "{told}\n{text}");
                }
            }
        }
    }
    println!("{taken} taken, {refused} refused");
}
