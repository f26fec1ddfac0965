//! Deleting SAs (RFC 7296 §1.4.1).

use super::{Exchange, Next, Request};
use crate::ike::child::ChildState;
use crate::ike::sa::{IkeSa, Stage};
use crate::ike::shared::{Effect, Shared};
use crate::policy::sad::ChildSaId;
use crate::wire::message::{self, Informational};
use crate::wire::{Delete, Notify, ProtocolId};

/// What was asked to be deleted.
#[derive(Clone)]
pub enum DeleteExchange {
    /// The IKE SA.
    Ike,
    /// A Child SA pair.
    Child(ChildSaId),
    /// An SPI of ours that never became a pair.
    Stillborn(u32),
}

impl DeleteExchange {
    /// §1.4.1: "Deleting an IKE SA implicitly closes any remaining Child SAs negotiated under it."
    pub fn ike(sa: &mut IkeSa, shared: &mut Shared) -> (Exchange, Request) {
        if sa.is_established() {
            shared.effects.push(Effect::Leaving { spi: sa.own_spi() });
        }
        // One that was rekeyed goes unnoticed: its successor is the connection's SA.
        if !matches!(sa.stage, Stage::Rekeyed) {
            sa.stage = Stage::Closing;
        }
        let message = Informational {
            deletes: vec![Delete::Ike],
            notifies: sa
                .farewell
                .map(|why| Notify::new(why, Vec::new()))
                .into_iter()
                .collect(),
            ..Informational::default()
        };
        let request = Request(message::Request::Informational(message));
        (Exchange::Delete(Self::Ike), request)
    }

    /// §1.4.1: the Delete payload lists "the SPIs (as they would be expected in the headers of inbound packets)".
    /// If another pair waits to take its place, that one sends from now on.
    pub fn child(sa: &mut IkeSa, shared: &mut Shared, id: ChildSaId) -> Option<(Exchange, Request)> {
        sa.take_over_from(shared, id);
        let child = sa.child_mut(id)?;
        child.state = ChildState::Deleting;
        let spis = vec![child.entry.inbound.spi];
        Some((
            Exchange::Delete(Self::Child(id)),
            request(Delete::Children {
                protocol: ProtocolId::ESP,
                spis,
            }),
        ))
    }

    /// See [`super::super::jobs::Job::DeleteStillborn`].
    pub fn stillborn(spi: u32) -> (Exchange, Request) {
        let delete = Delete::Children {
            protocol: ProtocolId::ESP,
            spis: vec![spi],
        };
        (Exchange::Delete(Self::Stillborn(spi)), request(delete))
    }

    /// Answered: the other half is closed too, whatever the answer says.
    pub fn on_reply(self, sa: &mut IkeSa, shared: &mut Shared) -> Next {
        match self {
            Self::Ike => Next::Close("we deleted it".to_owned()),
            Self::Child(id) => {
                sa.end_child(shared, id, false, "we deleted it");
                Next::Done
            }
            Self::Stillborn(spi) => {
                shared.spis.release(spi);
                Next::Done
            }
        }
    }
}

fn request(delete: Delete) -> Request {
    Request(message::Request::Informational(Informational {
        deletes: vec![delete],
        ..Informational::default()
    }))
}
