//! Signatures that are made elsewhere: each key has a thread, so that a slow token keeps nobody waiting but those who
//! need it.

use crate::signer::{Signer, Signers};
use landbridge_proto::ike::{SignRequest, SignTicket};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::mpsc::UnboundedSender;

/// Signatures that may wait for one key. Who asks beyond that is refused, and tries again as after any failure.
const QUEUE: usize = 64;

/// A signature, or why there is none.
pub(super) type Signed = (SignTicket, Result<Vec<u8>, String>);

/// Takes requests in and has them carried out.
pub(super) struct SigningDesk {
    signers: Signers,
    queues: BTreeMap<Arc<str>, SyncSender<SignRequest>>,
    /// As many answers as there are requests, so their number is bounded by [`QUEUE`].
    answers: UnboundedSender<Signed>,
}

impl SigningDesk {
    pub(super) fn new(signers: Signers, answers: UnboundedSender<Signed>) -> Self {
        Self {
            signers,
            queues: BTreeMap::new(),
            answers,
        }
    }

    /// New keys. What was asked of the old ones is still answered; their threads end after that.
    pub(super) fn reload(&mut self, signers: Signers) {
        self.signers = signers;
        self.queues.clear();
    }

    /// Hands a request to its key's thread.
    ///
    /// # Errors
    /// What to tell the endpoint at once.
    pub(super) fn submit(&mut self, request: SignRequest) -> Result<(), Signed> {
        let ticket = request.ticket;
        let failed = |why: &str| Err((ticket, Err(why.to_owned())));
        let Some(name) = request.key.elsewhere().map(Arc::clone) else {
            return failed("it is not a key that signs elsewhere");
        };
        if !self.queues.contains_key(&name) {
            let Some(signer) = self.signers.get(&name).map(Arc::clone) else {
                return failed("the configuration has no such key any more");
            };
            let (queue, requests) = sync_channel(QUEUE);
            let answers = self.answers.clone();
            let thread = std::thread::Builder::new().name("lb-sign".to_owned());
            if thread
                .spawn(move || serve(signer.as_ref(), &requests, &answers))
                .is_err()
            {
                return failed("no thread can be started");
            }
            self.queues.insert(Arc::clone(&name), queue);
        }
        match self.queues.get(&name).map(|queue| queue.try_send(request)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => failed("too many signatures are waiting for it"),
            Some(Err(TrySendError::Disconnected(_))) | None => {
                self.queues.remove(&name);
                failed("its thread ended")
            }
        }
    }
}

/// Until the desk or the daemon is gone.
fn serve(signer: &dyn Signer, requests: &Receiver<SignRequest>, answers: &UnboundedSender<Signed>) {
    while let Ok(request) = requests.recv() {
        let signature = signer.sign(request.scheme, &request.octets);
        if answers.send((request.ticket, signature)).is_err() {
            return;
        }
    }
}
