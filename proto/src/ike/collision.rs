//! Crossing requests (RFC 7296 §2.8.1, §2.25): what the peer's request means while something of ours concerns the same
//! Child SA. Pure tables.

/// What we are doing with the Child SA that a request of the peer is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildActivity {
    /// Nothing.
    Idle,
    /// Our request to rekey it is in flight.
    Rekeying,
    /// It has been rekeyed, and is about to be deleted.
    Rekeyed,
    /// Our request to delete it is in flight, or queued.
    Deleting,
    /// It is not there.
    Unknown,
}

/// What the peer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildRequest {
    /// To rekey it.
    Rekey,
    /// To delete it.
    Delete,
}

/// What we are doing with the IKE SA that a request of the peer comes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IkeActivity {
    /// Nothing that matters.
    Idle,
    /// Our request to create, rekey or delete one of its Child SAs is in flight.
    ChildBusy,
    /// Our request to rekey it is in flight.
    Rekeying,
    /// It is being deleted, or about to be: because it was rekeyed, or for good.
    Closing,
}

/// What the peer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IkeRequest {
    /// To rekey the IKE SA.
    Rekey,
    /// To create or rekey a Child SA.
    CreateChild,
}

/// What to do with the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As if nothing crossed.
    Proceed,
    /// Proceed, and remember it: the nonces decide when our own answer is in.
    ProceedCrossing,
    /// Answer TEMPORARY_FAILURE.
    TemporaryFailure,
    /// Answer CHILD_SA_NOT_FOUND.
    NotFound,
    /// Answer without a Delete payload for it.
    AnswerWithoutDelete,
}

/// The table.
#[must_use]
pub const fn verdict(activity: ChildActivity, request: ChildRequest) -> Verdict {
    use ChildActivity as A;
    use ChildRequest as R;
    match (request, activity) {
        (R::Rekey | R::Delete, A::Idle) => Verdict::Proceed,
        // §2.25.1: "If a peer receives a request to rekey a Child SA that it is currently rekeying, it SHOULD reply as
        // usual, and SHOULD prepare to close redundant SAs later based on the nonces".
        (R::Rekey, A::Rekeying) => Verdict::ProceedCrossing,
        // §2.25.1: "If a peer receives a request to rekey a Child SA that it is currently trying to close, it SHOULD reply
        // with TEMPORARY_FAILURE." An SA that is rekeyed is about to be closed.
        (R::Rekey, A::Deleting | A::Rekeyed) => Verdict::TemporaryFailure,
        // §2.25.1: "If a peer receives a request to rekey a Child SA that does not exist, it SHOULD reply with
        // CHILD_SA_NOT_FOUND."
        (R::Rekey, A::Unknown) => Verdict::NotFound,
        // §2.25.1: "If a peer receives a request to close a Child SA that it is currently rekeying, it SHOULD reply as
        // usual, with a Delete payload." Our rekey then finds CHILD_SA_NOT_FOUND.
        (R::Delete, A::Rekeying | A::Rekeyed) => Verdict::Proceed,
        // §2.25.1: "If a peer receives a request to close a Child SA that it is currently trying to close, it SHOULD reply
        // without a Delete payload"; §1.4.1 says the same of one it does not know.
        (R::Delete, A::Deleting | A::Unknown) => Verdict::AnswerWithoutDelete,
    }
}

/// The table of what concerns the IKE SA as a whole. Deletes are not in it: they are always answered as usual (§2.25.2).
#[must_use]
pub const fn ike_verdict(activity: IkeActivity, request: IkeRequest) -> Verdict {
    use IkeActivity as A;
    use IkeRequest as R;
    match (request, activity) {
        (R::Rekey, A::Idle) | (R::CreateChild, A::Idle | A::ChildBusy) => Verdict::Proceed,
        // §2.25.1: "If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a
        // Child SA of that IKE SA, it SHOULD reply with TEMPORARY_FAILURE."
        (R::Rekey, A::ChildBusy) => Verdict::TemporaryFailure,
        // §2.25.2: "If a peer receives a request to rekey an IKE SA that it is currently rekeying, it SHOULD reply as usual,
        // and SHOULD prepare to close redundant SAs and move inherited Child SAs later based on the nonces".
        (R::Rekey, A::Rekeying) => Verdict::ProceedCrossing,
        // §2.25.2: "If a peer receives a request to rekey an IKE SA that it is currently trying to close, it SHOULD reply
        // with TEMPORARY_FAILURE." §2.8.2: an SA that was rekeyed is one "that it is currently trying to close (whether or
        // not it has already sent the delete notification for the SA)".
        (R::Rekey, A::Closing) => Verdict::TemporaryFailure,
        // §2.25.2: "If a peer receives a request to create or rekey a Child SA when it is currently rekeying the IKE SA, it
        // SHOULD reply with TEMPORARY_FAILURE." What is being closed takes nothing new either.
        (R::CreateChild, A::Rekeying | A::Closing) => Verdict::TemporaryFailure,
    }
}

/// Whose SA is redundant after both sides rekeyed the same SA (§2.8.1): "the SA created with the lowest of the four nonces
/// used in the two exchanges SHOULD be closed by the endpoint that created it". Octet by octet, the shorter of two with
/// equal beginnings being the lower: the order of slices.
#[must_use]
pub fn ours_is_redundant(ours: [&[u8]; 2], theirs: [&[u8]; 2]) -> bool {
    ours.iter().min() < theirs.iter().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_four_nonces_loses() {
        assert!(ours_is_redundant([b"b", b"a"], [b"c", b"d"]));
        assert!(!ours_is_redundant([b"b", b"c"], [b"d", b"a"]));
        assert!(
            ours_is_redundant([b"aa", b"z"], [b"aab", b"z"]),
            "the shorter is the lower"
        );
    }

    #[test]
    fn what_crosses_a_rekey_of_the_ike_sa() {
        use {IkeActivity as A, IkeRequest as R, Verdict as V};
        let table = [
            (A::Idle, V::Proceed, V::Proceed),
            (A::ChildBusy, V::TemporaryFailure, V::Proceed),
            (A::Rekeying, V::ProceedCrossing, V::TemporaryFailure),
            (A::Closing, V::TemporaryFailure, V::TemporaryFailure),
        ];
        for (activity, rekey, create) in table {
            assert_eq!(ike_verdict(activity, R::Rekey), rekey, "{activity:?}");
            assert_eq!(ike_verdict(activity, R::CreateChild), create, "{activity:?}");
        }
    }

    #[test]
    fn what_the_peer_wants_of_an_sa_we_close_must_wait() {
        assert_eq!(
            verdict(ChildActivity::Deleting, ChildRequest::Rekey),
            Verdict::TemporaryFailure
        );
        assert_eq!(
            verdict(ChildActivity::Deleting, ChildRequest::Delete),
            Verdict::AnswerWithoutDelete
        );
        assert_eq!(
            verdict(ChildActivity::Rekeying, ChildRequest::Rekey),
            Verdict::ProceedCrossing
        );
        assert_eq!(verdict(ChildActivity::Unknown, ChildRequest::Rekey), Verdict::NotFound);
    }
}
