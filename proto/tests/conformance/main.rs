//! The requirements of RFC 7296 and its neighbours, one row each, with the test that proves it and the test that tries to
//! break it. Group letters and numbers are those of the project's checklist; a row says in short words what is asked, and
//! quotes the sentence that asks for it. What is left out stands there too, with its reason.
//!
//! | file | subject |
//! |---|---|
//! | `a_parsing` | header and payloads |
//! | `b_unknown` | critical bit, unknown payloads and notifies |
//! | `c_windows` | message IDs, windows, retransmission |
//! | `d_init` | IKE_SA_INIT: cookies, INVALID_KE_PAYLOAD, versions, strangers |
//! | `e_proposals` | SA negotiation |
//! | `f_keys` | key derivation, protection of messages |
//! | `g_auth` | authentication, identities, certificates |
//! | `h_selectors` | traffic selectors |
//! | `i_children` | CREATE_CHILD_SA: new, rekey, collisions |
//! | `j_deletes` | deletes, INITIAL_CONTACT, liveness |
//! | `k_nat` | NAT traversal, address change |
//! | `l_errors` | errors outside or inside an SA |
//! | `m_fragments` | IKE fragmentation |
//! | `n_esp` | ESP |
//! | `o_policy` | policy, audit |
//! | `p_extensions` | post-quantum key exchange, other extensions |
//! | `q_iptfs` | IP-TFS |
//! | `r_puzzles` | puzzles |
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../ike_pump/mod.rs"]
mod ike_pump;
#[path = "../peer/mod.rs"]
mod peer;

mod a_parsing;
mod b_unknown;
mod c_windows;
mod d_init;
mod e_proposals;
mod f_keys;
mod g_auth;
mod h_selectors;
mod i_children;
mod j_deletes;
mod k_nat;
mod l_errors;
mod m_fragments;
mod n_esp;
mod o_policy;
mod p_extensions;
mod q_iptfs;
mod r_puzzles;
mod table;

use table::{Proof, Row};

/// All groups, with the number of rows that each must have.
fn groups() -> Vec<(char, usize, Vec<Row>)> {
    vec![
        ('A', 12, a_parsing::rows()),
        ('B', 6, b_unknown::rows()),
        ('C', 14, c_windows::rows()),
        ('D', 14, d_init::rows()),
        ('E', 14, e_proposals::rows()),
        ('F', 10, f_keys::rows()),
        ('G', 13, g_auth::rows()),
        ('H', 9, h_selectors::rows()),
        ('I', 22, i_children::rows()),
        ('J', 10, j_deletes::rows()),
        ('K', 12, k_nat::rows()),
        ('L', 7, l_errors::rows()),
        ('M', 10, m_fragments::rows()),
        ('N', 24, n_esp::rows()),
        ('O', 4, o_policy::rows()),
        ('P', 35, p_extensions::rows()),
        ('Q', 21, q_iptfs::rows()),
        ('R', 13, r_puzzles::rows()),
    ]
}

#[test]
fn every_item_has_its_row() {
    for (letter, count, rows) in groups() {
        let ids: Vec<&str> = rows.iter().map(|row| row.id).collect();
        let want: Vec<String> = (1..=count).map(|number| format!("{letter}{number}")).collect();
        assert_eq!(ids, want);
        for row in rows {
            assert!(
                !row.clause.is_empty() && !row.requirement.is_empty() && !row.quote.is_empty(),
                "{} says nothing",
                row.id
            );
        }
    }
}

/// A test that is named exists, is a test, and is not switched off; one left out says why.
#[test]
fn every_proof_exists() {
    let mut left_out = Vec::new();
    for row in groups().into_iter().flat_map(|(_, _, rows)| rows) {
        for proof in [&row.positive, &row.negative] {
            match proof {
                Proof::Here(name, test) => {
                    let _: fn() = *test;
                    table::assert_is_a_test("proto/tests/conformance", name);
                }
                Proof::There(file, name) => table::assert_is_a_test(file, name),
                Proof::Out(reason) => {
                    assert!(reason.len() > 10, "{}: why?", row.id);
                    left_out.push(format!("{} {}: {reason}", row.id, row.requirement));
                }
            }
        }
    }
    // For whoever reads with --nocapture.
    println!("left out, or with one test only:\n{}", left_out.join("\n"));
}

/// With LANDBRIDGE_RFCS naming a folder of rfcNNNN.txt, every quotation is looked up there.
#[test]
fn quotations_are_the_rfcs_words() {
    let Some(folder) = std::env::var_os("LANDBRIDGE_RFCS") else {
        println!("LANDBRIDGE_RFCS is not set: the quotations were not looked up");
        return;
    };
    let mut wrong = Vec::new();
    for row in groups().into_iter().flat_map(|(_, _, rows)| rows) {
        if row.level != table::Level::Practice && !table::is_quoted(folder.as_ref(), &row) {
            wrong.push(format!("{} {}: {}", row.id, row.clause, row.quote));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
