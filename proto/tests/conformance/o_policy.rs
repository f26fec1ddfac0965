//! Group O: policy and audit.

use crate::table::Level::{Must, Should};
use crate::table::{Row, out, row, there};

const LOOPBACK: &str = "tests/data_loopback";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("O1", "RFC 4301 §4.4.2.1", Must),
            "lifetimes by time and by octets, both at once, soft and hard",
            "A compliant implementation MUST support both types of lifetimes, and MUST support a simultaneous use of both.",
            there("proto/tests/ike_child.rs", "limits_by_traffic"),
            there(LOOPBACK, "limits_stop_a_pair_and_are_told"),
        ),
        row(
            ("O2", "RFC 4303 §4", Should),
            "auditable events are counted by cause, and told now and then",
            "However, several auditable events are identified in this specification and for each of these events a minimum set \
             of information that SHOULD be included in an audit log is defined.",
            there(
                LOOPBACK,
                "recorded_corrupted_and_unknown_datagrams_are_dropped_and_counted",
            ),
            out("told once in ten seconds a cause, and counted always: whoever can send datagrams could fill the log"),
        ),
        row(
            ("O3", "RFC 4301 §6.2", Must),
            "ICMP errors in the tunnel are held against the packet they are about",
            "If an IPsec implementation receives an inbound ICMP error message on an SA, and the IP and ICMP headers of the \
             message do not match the traffic selectors for the SA, the receiver MUST process the received message in a \
             special fashion.",
            there(LOOPBACK, "icmp_errors_of_routers_find_their_sa"),
            there(LOOPBACK, "icmp_errors_are_held_against_what_they_are_about"),
        ),
        row(
            ("O4", "RFC 4301 §7.2", Must),
            "later fragments are not for an SA with ports",
            "However, a receiver MUST discard non-initial fragments that arrive on an SA with non-trivial port (or ICMP \
             type/code or MH type) selector values unless this feature has been negotiated.",
            there(LOOPBACK, "later_fragments_are_not_for_an_sa_with_ports"),
            out(
                "NON_FIRST_FRAGMENTS_ALSO is neither asked for nor granted: §7.3 is a MAY, and whoever grants it has to hold each \
                 fragment against the policy of its whole packet, by state a packet that strangers could fill; a child with \
                 selectors such as 10.1.0.0/16[udp/opaque] carries them (§7.2)",
            ),
        ),
    ]
}
