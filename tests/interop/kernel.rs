//! Over a real Linux kernel's ESP: strongSwan (kernel-netlink) and Libreswan in a guest, both roles each.

use super::lab::{Case, Lab, Step};
use super::support::peer::Software;

/// Everything that a gateway lives through, in one tunnel.
const LIFE: &[Step] = &[
    Step::TheyRekeyChild,
    Step::WeRekeyIke,
    Step::WeRekeyChild,
    Step::TheyRekeyIke,
    Step::TheyDelete,
    Step::TheyRestart,
    Step::WeDelete,
];

/// Data in the first case with a peer: as much as everywhere else, each way.
const TWENTY: usize = 20_000_000;

fn both_roles(lab: &mut Lab, case: &Case) {
    for initiate in [true, false] {
        lab.case(
            &Case {
                initiate,
                ..case.clone()
            },
            |_| {},
        );
    }
}

#[test]
fn strongswan() {
    let Some(mut lab) = Lab::guest("strongSwan over the kernel's ESP", Software::StrongSwan) else {
        return;
    };
    both_roles(
        &mut lab,
        &Case {
            what: "twenty megabytes",
            data: TWENTY,
            ..Case::default()
        },
    );
    both_roles(
        &mut lab,
        &Case {
            what: "life of a tunnel",
            esp: "aes256gcm16-x25519",
            steps: LIFE,
            ..Case::default()
        },
    );
    lab.finish();
}

#[test]
fn libreswan() {
    let Some(mut lab) = Lab::guest("Libreswan over the kernel's ESP", Software::Libreswan) else {
        return;
    };
    both_roles(
        &mut lab,
        &Case {
            what: "twenty megabytes",
            data: TWENTY,
            ..Case::default()
        },
    );
    both_roles(
        &mut lab,
        &Case {
            what: "life of a tunnel",
            esp: "aes256gcm16-x25519",
            steps: LIFE,
            ..Case::default()
        },
    );
    lab.finish();
}
