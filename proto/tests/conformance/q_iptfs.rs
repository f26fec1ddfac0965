//! Group Q: IP-TFS (RFC 9347).

use crate::table::Level::{Must, Should};
use crate::table::{Row, out, row, there};

const IKE: &str = "proto/tests/ike_iptfs.rs";
const CODEC: &str = "proto/src/esp/aggfrag/tests.rs";
const CONTROL: &str = "proto/src/esp/aggfrag/control/tests.rs";
const SENDER: &str = "proto/src/esp/aggfrag/control/sender.rs";
const PATH: &str = "proto/tests/iptfs_congestion.rs";
const DATA: &str = "tests/data_loopback/aggfrag.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("Q1", "RFC 9347 §5.1", Must),
            "USE_AGGFRAG in the offer and in the answer",
            "If the request is accepted, then the response MUST also include a notification of type USE_AGGFRAG.",
            there(IKE, "both_want_it"),
            there(IKE, "one_wants_it"),
        ),
        row(
            ("Q2", "RFC 9347 §5.1", Must),
            "an initiator that can't do without deletes the Child SA",
            "If this is unacceptable to the initiator, the initiator MUST delete the Child SA.",
            there(IKE, "one_requires_it"),
            there(IKE, "one_wants_it"),
        ),
        row(
            ("Q3", "RFC 9347 §5.1", Must),
            "not together with transport mode",
            "the USE_AGGFRAG notification MUST NOT be combined with the USE_TRANSPORT notification.",
            there(IKE, "what_a_responder_declines"),
            there(IKE, "what_an_initiator_does_not_accept"),
        ),
        row(
            ("Q4", "RFC 9347 §5.1", Should),
            "requirement flags that are not understood: not enabled",
            "If any requirement flags are not understood or cannot be supported by the receiver, then the receiver SHOULD NOT \
             enable use of AGGFRAG_PAYLOAD",
            there(IKE, "what_a_responder_declines"),
            there(IKE, "what_an_initiator_does_not_accept"),
        ),
        row(
            ("Q5", "RFC 9347 §6.1.4", Must),
            "D: no fragments for who takes none",
            "inner packets MUST be sent using a single Data Block",
            there(CODEC, "nothing_is_fragmented_for_a_peer_that_takes_no_fragments"),
            there(DATA, "a_peer_that_takes_no_fragments_gets_none"),
        ),
        row(
            ("Q6", "RFC 9347 §2.2.3", Must),
            "fragments follow each other, and BlockOffset says what is left",
            "the sender MUST send the inner packet fragments back to back in the logical outer packet stream",
            there(CODEC, "the_example_of_the_rfc"),
            there(CODEC, "any_packets_through_any_loss_and_reordering"),
        ),
        row(
            ("Q7", "RFC 9347 §2.2.3", Must),
            "no packet over two SAs",
            "senders MUST NOT send initial fragments of an inner packet using one SA and subsequent fragments in a different SA.",
            there(CODEC, "what_is_begun_stays_with_its_sa"),
            there(DATA, "rekeys_lose_nothing"),
        ),
        row(
            ("Q8", "RFC 9347 §2.2.3", Must),
            "outer packets are put in order, within a window and for a time",
            "Receiving a larger (newer) sequence number packet advances the window, and if any older ESP packets whose sequence \
             numbers the window has passed by are received, then the packets are dropped.",
            there(CODEC, "the_window_and_the_timer"),
            there(DATA, "each_inner_packet_is_checked_and_each_loss_is_its_own"),
        ),
        row(
            ("Q9", "RFC 9347 §2.5", Should),
            "senders that contradict themselves",
            "a receiver SHOULD gracefully handle the case where the BlockOffset of consecutive packets, and/or the inner packet \
             they share, do not agree.",
            there(CODEC, "wrong_payloads_cost_only_what_is_wrong"),
            there(CODEC, "any_packets_through_any_loss_and_reordering"),
        ),
        row(
            ("Q10", "RFC 9347 §2.3", Must),
            "an SA with it carries nothing else, one without it none of it",
            "A sender MUST only send AGGFRAG_PAYLOAD payloads over an SA configured for AGGFRAG mode.",
            there(DATA, "each_inner_packet_is_checked_and_each_loss_is_its_own"),
            there(DATA, "a_pair_without_it_takes_no_aggfrag_payload"),
        ),
        row(
            ("Q11", "RFC 9347 §6.1.2", Must),
            "what exceeds its field is the field's largest value",
            "If the RTT is equal to or larger than 0x3FFFFF, the value MUST be set to 0x3FFFFF.",
            there(CODEC, "headers_are_read_as_they_are_written"),
            out("any value that is read is taken"),
        ),
        row(
            ("Q12", "RFC 9347 §2.4.1", Must),
            "a constant rate and size, whatever goes through",
            "The packet send rate is constant and is not automatically adjusted, regardless of any network congestion",
            there(DATA, "a_constant_rate_says_nothing_of_what_goes_through"),
            there(CODEC, "a_rate_is_kept_over_time_and_no_burst_follows_a_pause"),
        ),
        row(
            ("Q13", "RFC 9347 §6.1.4", Must),
            "C: congestion information for who requires it",
            "the sender is requiring that congestion control information MUST be returned to it periodically",
            there(IKE, "who_goes_by_the_path_requires_information"),
            there(DATA, "who_gathers_tells_of_the_path"),
        ),
        row(
            ("Q14", "RFC 9347 §3", Must),
            "a TVal is echoed with the time of its first arrival",
            "Subsequent receipt of the same TVal MUST NOT update the recorded time.",
            there(CONTROL, "the_time_of_a_tval_is_that_of_its_first_arrival"),
            there(CONTROL, "what_was_overtaken_says_nothing_new"),
        ),
        row(
            ("Q15", "RFC 9347 §2.4.2", Must),
            "congestion information once in a round trip, both ways",
            "At a minimum, the congestion information MUST be sent, from the receiver and from the sender, at least once per RTT.",
            there(DATA, "who_gathers_tells_of_the_path"),
            there(CONTROL, "how_often_is_told"),
        ),
        row(
            ("Q16", "RFC 9347 §3", Should),
            "of two estimates the larger is the RTT",
            "The larger of these 2 RTT estimates SHOULD be used as the RTT value.",
            there(SENDER, "slow_tunnels_count_their_own_delays"),
            there(SENDER, "what_can_be_no_answer_is_none"),
        ),
        row(
            ("Q17", "RFC 9347 §2.4.2", Should),
            "no feedback for four round trips halves the rate",
            "When a \"no feedback timeout\" has occurred, the sending rate is halved, as per [RFC4342].",
            there(SENDER, "silence_halves_the_rate"),
            there(PATH, "it_goes_quiet_when_nothing_gets_through"),
        ),
        row(
            ("Q18", "RFC 9347 B", Should),
            "the rate is the one that TCP would have",
            "The current best practice indicates that congestion control SHOULD be done in a TCP-friendly way.",
            there(PATH, "it_finds_what_the_path_takes"),
            there(PATH, "it_falls_on_congestion_and_recovers"),
        ),
        row(
            ("Q19", "RFC 9347 B", Should),
            "slow start",
            "If following [RFC5348], the sender should also use the slow start mechanism described therein when the IP-TFS SA is first \
             established.",
            there(SENDER, "it_doubles_each_round_trip_until_something_is_lost"),
            there(PATH, "a_limit_is_a_limit"),
        ),
        row(
            ("Q20", "RFC 9347 §3.1", Must),
            "E where marks of congestion made the loss event rate",
            "The receiver MUST set the E bit in any AGGFRAG_PAYLOAD payload header containing a LossEventRate value derived from a CE \
             value being considered.",
            out("ECN is not in use for loss events (§8: it SHOULD NOT be by default): E is never set"),
            out("marks are passed on to the inner packets by RFC 6040 instead"),
        ),
        row(
            ("Q21", "RFC 9347 §2.4.2.1", Should),
            "circuit breakers at a constant rate",
            "implementations that support the non-congestion-control mode SHOULD implement circuit breakers [RFC8084] as a recovery method of \
             last resort.",
            out("losses are counted and logged; whoever can't guarantee the path takes the congestion-controlled mode"),
            out("losses are counted and logged; whoever can't guarantee the path takes the congestion-controlled mode"),
        ),
    ]
}
