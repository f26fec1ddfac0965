//! The ciphers of ESP, one packet after the other on one core.

use super::{Report, Row};
use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Secret};
use landbridge_proto::esp::{InboundSa, OutboundSa};
use landbridge_proto::policy::proposal::EspProposal;
use landbridge_proto::policy::sad::SaParameters;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Octets of a packet that fills a path of 1500.
pub(super) const FULL: usize = 1400;
/// Packets that are sealed, then opened: what fits the second-level cache.
const TOGETHER: usize = 64;

/// Nanoseconds a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub seal: f64,
    pub open: f64,
}

pub(super) fn run(span: Duration) -> Report {
    let (mut rows, mut full) = (Vec::new(), Vec::new());
    for words in ["aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes256-sha256"] {
        for len in [FULL, 64] {
            let Some(cost) = suite(words).ok().and_then(|suite| cost(suite, len, span / 4)) else {
                continue;
            };
            for (what, each) in [("seal", cost.seal), ("open", cost.open)] {
                let gbit = len as f64 * 8.0 / each;
                rows.push(Row::new(
                    format!("{words}, {len} octets, {what}"),
                    each,
                    "ns a packet",
                    Some(gbit),
                ));
            }
            if len == FULL {
                full.push((words, cost.seal + cost.open));
            }
        }
    }
    let fastest = full.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let aes = full.iter().find(|(words, _)| *words == "aes256gcm16");
    let chacha = full.iter().find(|(words, _)| *words == "chacha20poly1305");
    let bottleneck = match (fastest, aes, chacha) {
        (Some(_), Some(aes), Some(chacha)) if chacha.1 < aes.1 => format!(
            "This processor is faster with chacha20poly1305 than with AES-GCM ({:.1} times): put it first in esp_proposals where the \
             peer has it.",
            aes.1 / chacha.1
        ),
        (Some((words, _)), ..) => format!(
            "{words} is the fastest here. A core that does nothing but the cipher carries what the table says; \"landbridge bench tunnel\" shows \
             how much of a tunnel's time that is."
        ),
        _ => "No cipher could be measured.".to_owned(),
    };
    Report {
        what: "crypto",
        rows,
        bottleneck,
    }
}

/// The suite that words such as `aes256gcm16` name.
pub(super) fn suite(words: &str) -> Result<CipherSuite, String> {
    let proposal = EspProposal::parse(words).map_err(|error| error.to_string())?;
    let encryption = proposal.encryption.first().copied().ok_or("no encryption")?;
    if encryption == Encryption::Null {
        return Err("without encryption there is nothing to measure".to_owned());
    }
    Ok(CipherSuite {
        encryption,
        integrity: proposal.integrity.first().copied(),
    })
}

/// Keys for both ends, the same at each start: what is measured is no secret.
pub(super) fn parameters(suite: CipherSuite, spi: u32) -> Option<SaParameters> {
    let sizes = (ESP_PROVIDER.sizes)(suite)?;
    Some(SaParameters {
        spi,
        suite,
        key: Secret::new(vec![0x5a; sizes.key_material()]),
        esn: true,
    })
}

/// What a packet of `len` octets costs; `None` if the suite is not there.
pub(super) fn cost(suite: CipherSuite, len: usize, span: Duration) -> Option<Cost> {
    let parameters = parameters(suite, 0x5540_0000)?;
    let mut outbound = OutboundSa::new(&ESP_PROVIDER, &parameters, [7; 32])?;
    let mut inbound = InboundSa::new(&ESP_PROVIDER, &parameters, 4096)?;
    let mut packets = vec![vec![0; outbound.sealed_len(len)]; TOGETHER];
    // The best of many rounds: what else the machine does makes it worse, never better.
    let (mut seal, mut open) = (Duration::MAX, Duration::MAX);
    let end = Instant::now() + span;
    while Instant::now() < end {
        let begin = Instant::now();
        for packet in &mut packets {
            let sequence = outbound.reserve(1).ok()?;
            outbound.seal(sequence, 4, len, black_box(packet));
        }
        let between = Instant::now();
        for packet in &mut packets {
            inbound.open(black_box(packet)).ok()?;
        }
        seal = seal.min(between - begin);
        open = open.min(between.elapsed());
    }
    let each = |all: Duration| all.as_secs_f64() * 1e9 / TOGETHER as f64;
    Some(Cost {
        seal: each(seal),
        open: each(open),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_come_by_their_words() {
        assert!(suite("aes128gcm16").is_ok() && suite("aes256-sha256").is_ok());
        assert!(suite("aes256").is_err() && suite("null-sha256").is_err() && suite("rot13").is_err());
        let cost = cost(suite("chacha20poly1305").unwrap(), FULL, Duration::from_millis(5)).unwrap();
        assert!(cost.seal > 0.0 && cost.open > 0.0);
    }
}
