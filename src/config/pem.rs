//! PEM files (RFC 7468): certificates, keys and CRLs in one file, with text between them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// What stands between BEGIN and END.
pub(super) struct Block {
    /// `CERTIFICATE`, `PRIVATE KEY`, ...
    pub label: String,
    /// Decoded.
    pub der: Zeroizing<Vec<u8>>,
}

/// All blocks that are well formed, in order; headers within a block (RFC 1421) are not known.
pub(super) fn read(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((label, after)) = after.split_once("-----") else {
            break;
        };
        let Some((body, after)) = after.split_once(&format!("-----END {label}-----")) else {
            rest = after;
            continue;
        };
        let digits: Zeroizing<String> = Zeroizing::new(body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
        if let Ok(der) = STANDARD.decode(digits.as_bytes()) {
            blocks.push(Block {
                label: label.to_owned(),
                der: Zeroizing::new(der),
            });
        }
        rest = after;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_text() {
        let text = "subject=CN = a\n-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\ntext\r\n\
                    -----BEGIN X509 CRL-----\r\nBAUG\r\n-----END X509 CRL-----";
        let blocks = read(text);
        let labels: Vec<&str> = blocks.iter().map(|block| block.label.as_str()).collect();
        assert_eq!(labels, ["CERTIFICATE", "X509 CRL"]);
        assert_eq!(
            (blocks[0].der.as_slice(), blocks[1].der.as_slice()),
            (&[1, 2, 3][..], &[4, 5, 6][..])
        );
    }

    #[test]
    fn what_is_broken_is_left_out() {
        for text in [
            "",
            "-----BEGIN ",
            "-----BEGIN A-----",
            "-----BEGIN A-----\n!\n-----END A-----",
            "-----END A-----",
        ] {
            assert!(read(text).is_empty(), "{text:?}");
        }
    }
}
