//! What an IKE SA tells the operator.

use super::*;
use crate::ike::reason::Reason;

impl IkeSa {
    /// An attempt failed: the verdict for the operator.
    pub fn tell_failure(
        &self,
        shared: &mut Shared,
        reason: Reason,
        verdict: String,
        offered: Vec<String>,
        wanted: Vec<String>,
        hint: Option<String>,
    ) {
        shared.failed(Failure {
            connection: self.name(),
            path: self.path,
            reason,
            verdict,
            offered,
            wanted,
            hint,
        });
    }

    /// The same, from an error.
    pub fn tell_error(&self, shared: &mut Shared, what: &str, error: &IkeError) {
        shared.failed(self.failure(what, error));
    }

    /// An error as the operator reads it.
    pub fn failure(&self, what: &str, error: &IkeError) -> Failure {
        let (offered, wanted, hint) = error.explain();
        Failure {
            connection: self.name(),
            path: self.path,
            reason: error.into(),
            verdict: format!("{what}: {error}"),
            offered,
            wanted,
            hint,
        }
    }

    /// A snapshot.
    pub fn status(&self) -> IkeSaStatus {
        let stage = match self.stage {
            Stage::Initiating => "initiating",
            Stage::HalfOpen(_) => "half-open",
            Stage::Established => "established",
            Stage::Rekeyed => "rekeyed",
            Stage::Closing | Stage::Closed { .. } => "closing",
        };
        let in_flight = self
            .outgoing
            .in_flight()
            .zip(self.exchange.as_ref())
            .map(|(request, exchange)| match &self.solving {
                Some(solving) => format!(
                    "{}: solving a puzzle of {} bits",
                    exchange.exchange_type(),
                    solving.difficulty
                ),
                None => format!(
                    "{} request {}, sent {} times",
                    exchange.exchange_type(),
                    request.message_id,
                    request.sent
                ),
            });
        let children: Vec<ChildUp> = self
            .children
            .iter()
            .filter(|child| child.is_current())
            .map(Child::describe)
            .collect();
        IkeSaStatus {
            connection: self.name(),
            stage,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            initiator: self.initiator,
            path: self.path,
            nat: self.nat,
            encapsulation: self.encapsulation(),
            why_tcp: self.why_tcp(),
            suite: self.suite,
            post_quantum: self.post_quantum,
            ppk: self.ppk.used,
            peer: self.peer_id.clone(),
            peer_certificate: self.peer_certificate(),
            since: self.established,
            rekey_at: self.rekey_at,
            reauth_at: self.reauth.due().filter(|_| !matches!(self.stage, Stage::Rekeyed)),
            resumed: self.resumed,
            redirected_from: self.redirection.from,
            mobike: self.mobike.enabled,
            quick_crash_detection: self.peer_tokens.any(),
            children,
            in_flight,
        }
    }
}
