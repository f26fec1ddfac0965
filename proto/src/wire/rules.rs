//! Which payload may stand in which message, and how often: one table per exchange and direction (RFC 7296 §1.2-§1.4,
//! appendix C). Types that are not in a table are ignored where they stand.

use super::chain::payload_type;
use super::payload::Payload;
use super::{DecodeError, PayloadType};

/// At least `min` and at most `max` of a payload type.
#[derive(Clone, Copy, Debug)]
pub struct Rule(pub PayloadType, pub usize, pub usize);

/// Enough for anything that may stand more than once (the caps of [`super::limits`] are lower).
const MANY: usize = 64;

/// IKE_SA_INIT request.
pub const SA_INIT_REQUEST: &[Rule] = &[
    Rule(PayloadType::PUZZLE_SOLUTION, 0, 1),
    Rule(PayloadType::SA, 1, 1),
    Rule(PayloadType::KE, 1, 1),
    Rule(PayloadType::NONCE, 1, 1),
];
/// IKE_SA_INIT response that goes on.
pub const SA_INIT_RESPONSE: &[Rule] = &[
    Rule(PayloadType::SA, 1, 1),
    Rule(PayloadType::KE, 1, 1),
    Rule(PayloadType::NONCE, 1, 1),
    Rule(PayloadType::CERTREQ, 0, MANY),
];
/// IKE_SESSION_RESUME, either direction (RFC 5723 §4.3.2).
pub const SESSION_RESUME: &[Rule] = &[Rule(PayloadType::NONCE, 1, 1)];
/// IKE_AUTH request.
pub const AUTH_REQUEST: &[Rule] = &[
    Rule(PayloadType::IDI, 1, 1),
    Rule(PayloadType::IDR, 0, 1),
    Rule(PayloadType::CERT, 0, MANY),
    Rule(PayloadType::CERTREQ, 0, MANY),
    Rule(PayloadType::AUTH, 0, 1),
    Rule(PayloadType::CP, 0, 1),
    Rule(PayloadType::SA, 0, 1),
    Rule(PayloadType::TSI, 0, 1),
    Rule(PayloadType::TSR, 0, 1),
];
/// IKE_AUTH response that authenticates.
pub const AUTH_RESPONSE: &[Rule] = &[
    Rule(PayloadType::IDR, 1, 1),
    Rule(PayloadType::CERT, 0, MANY),
    Rule(PayloadType::AUTH, 1, 1),
    Rule(PayloadType::CP, 0, 1),
    Rule(PayloadType::SA, 0, 1),
    Rule(PayloadType::TSI, 0, 1),
    Rule(PayloadType::TSR, 0, 1),
];
/// CREATE_CHILD_SA, either direction.
pub const CREATE_CHILD: &[Rule] = &[
    Rule(PayloadType::SA, 1, 1),
    Rule(PayloadType::NONCE, 1, 1),
    Rule(PayloadType::KE, 0, 1),
    Rule(PayloadType::TSI, 0, 1),
    Rule(PayloadType::TSR, 0, 1),
];
/// INFORMATIONAL, either direction.
pub const INFORMATIONAL: &[Rule] = &[Rule(PayloadType::DELETE, 0, MANY), Rule(PayloadType::CP, 0, 1)];
/// IKE_INTERMEDIATE, either direction (RFC 9242 §3.2; RFC 9370 §2.2.2).
pub const INTERMEDIATE: &[Rule] = &[Rule(PayloadType::KE, 0, 1)];
/// IKE_FOLLOWUP_KE, either direction (RFC 9370 §2.2.4).
pub const FOLLOWUP_KE: &[Rule] = &[Rule(PayloadType::KE, 1, 1)];

/// Holds a table against a message.
///
/// # Errors
/// [`DecodeError::Rule`] for the first payload that is missing or there too often.
pub fn check(exchange: &'static str, rules: &[Rule], payloads: &[Payload]) -> Result<(), DecodeError> {
    for Rule(wanted, min, max) in rules {
        let count = payloads
            .iter()
            .filter(|payload| payload_type(payload) == *wanted)
            .count();
        let problem = match count {
            0 if *min > 0 => "is missing",
            n if n > *max => "stands too often",
            _ => continue,
        };
        return Err(DecodeError::Rule {
            exchange,
            payload: wanted.name().unwrap_or("?"),
            problem,
        });
    }
    Ok(())
}
