//! Crossing requests (RFC 7296 §2.8.1, §2.8.2, §2.25): what the peer's request means while something of ours concerns the
//! same SA, and which of two SAs goes. Pure tables.

use crate::wire::Nonce;

/// What we are doing with the Child SA that a request of the peer is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildActivity {
    /// Nothing.
    Idle,
    /// Our request to rekey it is in flight.
    Rekeying,
    /// That was answered, and its additional key exchanges are under way (RFC 9370 §2.2.4).
    FollowingUp,
    /// It has been rekeyed, by either end, and is about to be deleted.
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
    /// That was answered, and its additional key exchanges are under way (RFC 9370 §2.2.4).
    FollowingUp,
    /// It is being deleted, or about to be: because it was rekeyed, or for good.
    Closing,
}

/// What the peer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IkeRequest {
    /// To rekey the IKE SA.
    Rekey,
    /// To delete it.
    Delete,
    /// To create or rekey a Child SA.
    CreateChild,
    /// To delete a Child SA; [`verdict`] says more.
    DeleteChild,
}

/// What to do with the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As if nothing crossed.
    Proceed,
    /// Proceed, and remember it: the nonces decide when our own answer is in.
    ProceedCrossing,
    /// Proceed, and forget our own request.
    ProceedAlone,
    /// Answer TEMPORARY_FAILURE.
    TemporaryFailure,
    /// Answer CHILD_SA_NOT_FOUND.
    NotFound,
    /// Answer without a Delete payload for it.
    AnswerWithoutDelete,
}

/// The table of what concerns a Child SA.
#[must_use]
pub const fn verdict(activity: ChildActivity, request: ChildRequest) -> Verdict {
    use ChildActivity as A;
    use ChildRequest as R;
    match (request, activity) {
        // §1.3.3, §1.4.1: nothing crosses.
        (R::Rekey | R::Delete, A::Idle) => Verdict::Proceed,
        // §2.25.1: "If a peer receives a request to rekey a Child SA that it is currently rekeying, it SHOULD reply as
        // usual, and SHOULD prepare to close redundant SAs later based on the nonces (see Section 2.8.1)."
        (R::Rekey, A::Rekeying) => Verdict::ProceedCrossing,
        // RFC 9370 §2.2.4: "a situation may occur when, due to packet loss, one of the peers receives the CREATE_CHILD_SA
        // message requesting the rekey of an SA that is already being rekeyed by this peer (i.e., the CREATE_CHILD_SA exchange
        // initiated by this peer has already been completed, and the series of IKE_FOLLOWUP_KE exchanges is in progress). In
        // this case, a TEMPORARY_FAILURE notification MUST be sent in response to such a request."
        (R::Rekey, A::FollowingUp) => Verdict::TemporaryFailure,
        // §2.25.1: "If a peer receives a request to rekey a Child SA that it is currently trying to close, it SHOULD reply
        // with TEMPORARY_FAILURE."
        (R::Rekey, A::Deleting) => Verdict::TemporaryFailure,
        // §2.8: "when the new one is established, delete the old one": what was rekeyed is what we are "currently trying to
        // close" too, as §2.8.2 says of an IKE SA, "whether or not it has already sent the delete notification".
        (R::Rekey, A::Rekeyed) => Verdict::TemporaryFailure,
        // §2.25.1: "If a peer receives a request to rekey a Child SA that does not exist, it SHOULD reply with
        // CHILD_SA_NOT_FOUND."
        (R::Rekey, A::Unknown) => Verdict::NotFound,
        // §2.25.1: "If a peer receives a request to close a Child SA that it is currently rekeying, it SHOULD reply as
        // usual, with a Delete payload." Our rekey then finds CHILD_SA_NOT_FOUND.
        (R::Delete, A::Rekeying | A::FollowingUp) => Verdict::Proceed,
        // §2.8.1: "The node that initiated the surviving rekeyed SA should delete the replaced SA after the new one is
        // established": this is that Delete.
        (R::Delete, A::Rekeyed) => Verdict::Proceed,
        // §2.25.1: "If a peer receives a request to close a Child SA that it is currently trying to close, it SHOULD reply
        // without a Delete payload (see Section 1.4.1)."
        (R::Delete, A::Deleting) => Verdict::AnswerWithoutDelete,
        // §2.25.1: "If a peer receives a request to close a Child SA that does not exist, it SHOULD reply without a Delete
        // payload."
        (R::Delete, A::Unknown) => Verdict::AnswerWithoutDelete,
    }
}

/// The table of what concerns the IKE SA as a whole.
#[must_use]
pub const fn ike_verdict(activity: IkeActivity, request: IkeRequest) -> Verdict {
    use IkeActivity as A;
    use IkeRequest as R;
    match (request, activity) {
        // §1.3.1, §1.3.2, §1.3.3, §1.4.1: nothing crosses.
        (R::Rekey | R::Delete | R::CreateChild | R::DeleteChild, A::Idle) => Verdict::Proceed,
        // §2.25.1: "If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a
        // Child SA of that IKE SA, it SHOULD reply with TEMPORARY_FAILURE."
        (R::Rekey, A::ChildBusy) => Verdict::TemporaryFailure,
        // §2.25.2: "If a peer receives a request to rekey an IKE SA that it is currently rekeying, it SHOULD reply as usual,
        // and SHOULD prepare to close redundant SAs and move inherited Child SAs later based on the nonces (see Section
        // 2.8.2)."
        (R::Rekey, A::Rekeying) => Verdict::ProceedCrossing,
        // RFC 9370 §2.2.4: "a TEMPORARY_FAILURE notification MUST be sent in response to such a request", as for a Child SA.
        (R::Rekey, A::FollowingUp) => Verdict::TemporaryFailure,
        // §2.25.2: "If a peer receives a request to rekey an IKE SA that it is currently trying to close, it SHOULD reply
        // with TEMPORARY_FAILURE." §2.8.2: an SA that was rekeyed is one "that it is currently trying to close (whether or
        // not it has already sent the delete notification for the SA)".
        (R::Rekey, A::Closing) => Verdict::TemporaryFailure,
        // §1.4.1: "Deleting an IKE SA implicitly closes any remaining Child SAs negotiated under it.": what we wanted of
        // one is void.
        (R::Delete, A::ChildBusy) => Verdict::ProceedAlone,
        // §2.25.2: "If a peer receives a request to close an IKE SA that it is currently rekeying, it SHOULD reply as usual,
        // and forget about its own rekeying request."
        (R::Delete, A::Rekeying | A::FollowingUp) => Verdict::ProceedAlone,
        // §2.25.2: "If a peer receives a request to close an IKE SA that it is currently trying to close, it SHOULD reply as
        // usual, and forget about its own close request."
        (R::Delete, A::Closing) => Verdict::ProceedAlone,
        // §2.25: the same Child SA has its own table, another is another's business.
        (R::CreateChild | R::DeleteChild, A::ChildBusy) => Verdict::Proceed,
        // §2.25.2: "If a peer receives a request to create or rekey a Child SA when it is currently rekeying the IKE SA, it
        // SHOULD reply with TEMPORARY_FAILURE."
        (R::CreateChild, A::Rekeying | A::FollowingUp) => Verdict::TemporaryFailure,
        // §2.25: "A TEMPORARY_FAILURE notification SHOULD be sent when a peer receives a request that cannot be completed
        // due to a temporary condition such as a rekeying operation.": the new IKE SA is the place for it.
        (R::CreateChild, A::Closing) => Verdict::TemporaryFailure,
        // §2.25.2: "If a peer receives a request to delete a Child SA when it is currently rekeying the IKE SA, it SHOULD
        // reply as usual, with a Delete payload."
        (R::DeleteChild, A::Rekeying | A::FollowingUp) => Verdict::Proceed,
        // §1.4.1: "The recipient MUST close the designated SAs." What is not here any more is not closed here.
        (R::DeleteChild, A::Closing) => Verdict::Proceed,
    }
}

/// The peer's exchange about the same SA that ours is about.
#[derive(Clone, Debug)]
pub struct Crossing<T> {
    /// What it made; none yet if more key exchanges are to come (RFC 9370 §2.2.4).
    pub made: Option<T>,
    /// Its Ni and our Nr.
    nonces: [Nonce; 2],
}

impl<T> Crossing<T> {
    /// It has been answered, with these: its Ni and our Nr.
    #[must_use]
    pub fn new(nonces: &[Nonce; 2]) -> Self {
        Self {
            made: None,
            nonces: nonces.clone(),
        }
    }

    /// What the exchange with these nonces made, if it is this one.
    pub fn complete(&mut self, nonces: &[Nonce; 2], made: T) -> bool {
        let is_this = self.nonces == *nonces;
        if is_this {
            self.made = Some(made);
        }
        is_this
    }

    /// Whether ours, with this Ni and Nr, goes: see [`loser`].
    #[must_use]
    pub fn beats(&self, ni: &Nonce, nr: &Nonce) -> bool {
        let theirs = self.nonces.each_ref().map(|nonce| &nonce.0[..]);
        loser([&ni.0, &nr.0], theirs) == Loser::Ours
    }
}

/// Whose new SA goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loser {
    /// The one that we asked for: we delete it.
    Ours,
    /// The one that the peer asked for: the peer deletes it.
    Theirs,
}

/// Whose SA is redundant after both sides rekeyed the same SA, by Ni and Nr of either exchange.
///
/// §2.8.1: "If redundant SAs are created through such a collision, the SA created with the lowest of the four nonces used in
/// the two exchanges SHOULD be closed by the endpoint that created it." §2.8.2: "The new IKE SA containing the lowest nonce
/// SHOULD be deleted by the node that created it".
///
/// §2.8.1: "\"Lowest\" means an octet-by-octet comparison (instead of, for instance, comparing the nonces as large integers).
/// In other words, start by comparing the first octet; if they're equal, move to the next octet, and so on. If you reach the
/// end of one nonce, that nonce is the lower one." That is the order of slices.
#[must_use]
pub fn loser(ours: [&[u8]; 2], theirs: [&[u8]; 2]) -> Loser {
    if ours.iter().min() < theirs.iter().min() {
        Loser::Ours
    } else {
        Loser::Theirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every cell; a row that is missing does not compile, since the columns are arrays.
    #[test]
    fn what_crosses_at_a_child_sa() {
        use {ChildActivity as A, ChildRequest as R, Verdict as V};
        let activities = [
            A::Idle,
            A::Rekeying,
            A::FollowingUp,
            A::Rekeyed,
            A::Deleting,
            A::Unknown,
        ];
        let wait = V::TemporaryFailure;
        let table = [
            (
                R::Rekey,
                [V::Proceed, V::ProceedCrossing, wait, wait, wait, V::NotFound],
            ),
            (
                R::Delete,
                [
                    V::Proceed,
                    V::Proceed,
                    V::Proceed,
                    V::Proceed,
                    V::AnswerWithoutDelete,
                    V::AnswerWithoutDelete,
                ],
            ),
        ];
        for (request, verdicts) in table {
            for (activity, want) in activities.into_iter().zip(verdicts) {
                assert_eq!(verdict(activity, request), want, "{request:?} while {activity:?}");
            }
        }
    }

    #[test]
    fn what_crosses_at_an_ike_sa() {
        use {IkeActivity as A, IkeRequest as R, Verdict as V};
        let activities = [A::Idle, A::ChildBusy, A::Rekeying, A::FollowingUp, A::Closing];
        let wait = V::TemporaryFailure;
        let table = [
            (R::Rekey, [V::Proceed, wait, V::ProceedCrossing, wait, wait]),
            (
                R::Delete,
                [
                    V::Proceed,
                    V::ProceedAlone,
                    V::ProceedAlone,
                    V::ProceedAlone,
                    V::ProceedAlone,
                ],
            ),
            (R::CreateChild, [V::Proceed, V::Proceed, wait, wait, wait]),
            (R::DeleteChild, [V::Proceed; 5]),
        ];
        for (request, verdicts) in table {
            for (activity, want) in activities.into_iter().zip(verdicts) {
                assert_eq!(ike_verdict(activity, request), want, "{request:?} while {activity:?}");
            }
        }
    }

    /// §2.8.1, word for word: the lowest of the four, octet by octet, the shorter of two with equal beginnings.
    #[test]
    fn the_lowest_of_four_nonces_loses() {
        let four: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
        for lowest in 0..4 {
            let mut nonces = four;
            nonces.swap(0, lowest);
            let [a, b, c, d] = nonces;
            let want = if lowest < 2 { Loser::Ours } else { Loser::Theirs };
            assert_eq!(loser([a, b], [c, d]), want, "{nonces:?}");
            // The peer sees the same from the other side.
            assert_ne!(loser([c, d], [a, b]), want);
        }
        assert_eq!(loser([b"aa", b"z"], [b"aab", b"z"]), Loser::Ours);
        assert_eq!(loser([b"aab", b"z"], [b"aa", b"z"]), Loser::Theirs);
        // Not as large integers: the first octet decides, whatever the length.
        assert_eq!(loser([&[1, 255, 255], &[9]], [&[2], &[9]]), Loser::Ours);
        assert_eq!(loser([&[2], &[9]], [&[1, 255, 255], &[9]]), Loser::Theirs);
    }
}
