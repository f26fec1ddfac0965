//! The liveness check: an empty INFORMATIONAL, which must be answered (RFC 7296 §1.4, §2.4).

use super::{Exchange, Request};
use crate::wire::message;

/// Nothing is needed for it: any authentic answer will do.
#[derive(Clone)]
pub struct LivenessExchange;

impl LivenessExchange {
    /// The request.
    pub fn begin() -> (Exchange, Request) {
        let empty = message::Informational::default();
        (
            Exchange::Liveness(Self),
            Request(message::Request::Informational(empty)),
        )
    }
}
