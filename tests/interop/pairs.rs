//! Several pairs of one child (RFC 9611) with strongSwan 6, whose own ESP has no cores to ask for more: as initiator we make the
//! second and rekey both, as responder we understand that it would be willing.

use super::lab::{Case, Lab};
use super::support::wait_until;
use std::collections::BTreeSet;
use std::time::Duration;

fn case(initiate: bool) -> Case {
    Case {
        what: "several pairs of one child",
        initiate,
        child_more: "pairs = 2",
        peer_more: &["PCPU=yes"],
        ..Case::default()
    }
}

#[test]
fn we_make_them() {
    let Some(mut lab) = Lab::newer("several pairs, initiator") else {
        return;
    };
    let case = case(true);
    lab.case(&case, |lab| {
        let spis = || -> BTreeSet<String> {
            let connection = lab.ours().connection(&lab.world, "peer");
            let children = connection["ike_sas"][0]["children"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            children.iter().map(|child| child["spi_in"].to_string()).collect()
        };
        let two = |what: &str, before: &BTreeSet<String>| {
            wait_until(what, Duration::from_secs(10), || {
                let now = spis();
                now.len() == 2 && now.is_disjoint(before) && lab.theirs.status().matches("INSTALLED").count() == 2
            });
        };
        two("two pairs are up", &BTreeSet::new());
        lab.move_data(&case);
        let before = spis();
        lab.ours().client(&lab.world, &["rekey", "peer"]);
        two("both are rekeyed", &before);
        lab.move_data(&case);
        // It knows which is for one core alone.
        assert!(lab.theirs.status().contains("cpu 1"), "{}", lab.theirs.status());
    });
    lab.finish();
}

#[test]
fn we_are_willing() {
    let Some(mut lab) = Lab::newer("several pairs, responder") else {
        return;
    };
    lab.case(&case(false), |lab| {
        let log = lab.theirs.log();
        let has = |kind: &str| {
            log.lines()
                .any(|line| line.contains(kind) && line.contains("N(RES_INFO)"))
        };
        assert!(has("generating IKE_AUTH request"), "{log}");
        assert!(has("parsed IKE_AUTH response"), "{log}");
    });
    lab.finish();
}
