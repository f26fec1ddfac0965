//! Group R: puzzles (RFC 8019).

use crate::table::Level::{Must, Should};
use crate::table::{Row, row, there};

const BOTH: &str = "proto/tests/ike_puzzle/main.rs";
const INITIATOR: &str = "proto/tests/ike_puzzle/initiator.rs";
const RESPONDER: &str = "proto/tests/ike_puzzle/responder.rs";
const BEFORE_AUTH: &str = "proto/tests/ike_puzzle/before_auth.rs";
const PUZZLE: &str = "proto/src/ike/puzzle.rs";
const COOKIE: &str = "proto/src/ike/cookie.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("R1", "RFC 8019 §7.1.1", Must),
            "no puzzle without a cookie",
            "Note that the PUZZLE notification MUST always be accompanied with the COOKIE notification, since the content of the \
             COOKIE notification is used as an input data when solving the puzzle.",
            there(BOTH, "a_puzzle_is_solved"),
            there(INITIATOR, "a_puzzle_without_a_cookie"),
        ),
        row(
            ("R2", "RFC 8019 §7.1.2", Must),
            "a puzzle without a cookie is not heard",
            "In this case, the Initiator MUST ignore the received message and continue to wait until either a valid PUZZLE \
             notification is received or the retransmission timer fires.",
            there(INITIATOR, "while_a_puzzle_is_solved"),
            there(INITIATOR, "a_puzzle_without_a_cookie"),
        ),
        row(
            ("R3", "RFC 8019 §7.1.4", Must),
            "all four keys are looked at",
            "The Responder MUST check all of the four returned keys.",
            there(PUZZLE, "a_solution_of_another"),
            there(PUZZLE, "what_is_no_solution"),
        ),
        row(
            ("R4", "RFC 8019 §8.2", Must),
            "four keys of one size, at most the preferred one",
            "This field MUST NOT be empty. All of the keys MUST have the same size; therefore, the size of this field is always a \
             multiple of 4 bytes.",
            there(PUZZLE, "what_is_found_is_right_and_the_same_in_pieces"),
            there(RESPONDER, "what_is_no_solution"),
        ),
        row(
            ("R5", "RFC 8019 §7.1.1.3", Must),
            "what a cookie says of its puzzle can't be changed",
            "If this information is encoded in the cookie, then the Responder MUST make it integrity protected, so that any \
             intended or accidental alteration of this information in the returned cookie is detectable.",
            there(COOKIE, "a_cookie_is_bound_to_its_request_and_ages"),
            there(RESPONDER, "what_is_no_solution"),
        ),
        row(
            ("R6", "RFC 8019 §10", Must),
            "a solution buys one IKE SA",
            "Implementations MUST use one of the above (or some other) countermeasures to completely eliminate or make \
             insignificant the possible benefit an attacker can get from reusing puzzle solutions.",
            there(COOKIE, "a_solution_buys_once_and_not_late"),
            there(RESPONDER, "a_solution_buys_one_sa"),
        ),
        row(
            ("R7", "RFC 8019 §7.1", Must),
            "who solves none may get in, by lot, behind a cookie",
            "The requests that don't contain the COOKIE notification MUST NOT participate in this lottery.",
            there(BOTH, "who_solves_none_may_get_in"),
            there(RESPONDER, "an_unspoofed_flood"),
        ),
        row(
            ("R8", "RFC 8019 §7.1.4", Must),
            "a solution of no puzzle is passed over",
            "In this case, the received request message must not contain the PS payload, and this payload MUST be ignored if the \
             message contains a PS payload for any reason.",
            there(BOTH, "a_puzzle_is_solved"),
            there(RESPONDER, "a_solution_that_nobody_asked_for"),
        ),
        row(
            ("R9", "RFC 8019 §9", Should),
            "an initiator does not solve everything",
            "Initiators SHOULD set a maximum difficulty level beyond which they won't try to solve the puzzle and log or display a \
             failure message to the administrator or user.",
            there(INITIATOR, "a_puzzle_that_is_too_hard"),
            there(INITIATOR, "forged_puzzles"),
        ),
        row(
            ("R10", "RFC 8019 §4.5", Should),
            "a ticket takes a cookie",
            "When under attack, the Responder SHOULD require Initiators presenting Session Resumption tickets to pass a return \
             routability check by including the COOKIE notification in the IKE_SESSION_RESUME response message",
            there("proto/tests/ike_resume_wire.rs", "cookies"),
            there(
                "proto/tests/ike_resume_wire.rs",
                "there_is_room_for_tickets_when_there_is_none_for_others",
            ),
        ),
        row(
            ("R11", "RFC 8019 §7.2.2", Must),
            "a puzzle before IKE_AUTH is solved",
            "If the IKE_SA_INIT regular response message (i.e., the message containing SA, KE, NONCE payloads) contains the PUZZLE \
             notification and the Initiator supports puzzles, it MUST solve the puzzle.",
            there(BEFORE_AUTH, "a_puzzle_before_ike_auth"),
            there(BEFORE_AUTH, "a_puzzle_before_ike_auth_that_takes_too_long"),
        ),
        row(
            ("R12", "RFC 8019 §7.2.1", Must),
            "but none that comes out of nothing",
            "The Responder MUST NOT use puzzles in the IKE_AUTH exchange unless a puzzle has been previously presented and solved in \
             the preceding IKE_SA_INIT exchange.",
            there(BEFORE_AUTH, "a_puzzle_before_ike_auth_that_comes_out_of_nothing"),
            there(BEFORE_AUTH, "a_solution_before_ike_auth_that_nobody_asked_for"),
        ),
        row(
            ("R13", "RFC 8019 §7.2.2", Must),
            "its solution stands in the clear, in the first fragment",
            "If IKE fragmentation [RFC7383] is used in the IKE_AUTH exchange, then the PS payload MUST be present only in the first \
             IKE Fragment message, in accordance with Section 2.5.3 of [RFC7383].",
            there(BEFORE_AUTH, "a_puzzle_before_ike_auth"),
            there(BEFORE_AUTH, "a_solution_before_ike_auth_that_nobody_asked_for"),
        ),
    ]
}
