#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use super::*;

const MS: Duration = Duration::from_millis(1);
const START: Instant = Instant::from_nanos(77_000_000_000);

/// RFC 9347 §3: "On first receipt of this TVal, the receiver records the new TVal value, along with the time it arrived locally."
#[test]
fn the_time_of_a_tval_is_that_of_its_first_arrival() {
    let (mut a, mut b) = (Control::new(3), Control::new(3));
    let said = a.tell(START, MS);
    assert_eq!((said.rtt, said.techo, said.loss_event_rate), (0, 0, 0));
    assert_eq!(said.tval, 77_000_000);
    b.arrived(START + MS * 20, 1, Some(&said));
    b.arrived(START + MS * 25, 2, Some(&said));
    let answer = b.tell(START + MS * 30, MS);
    assert_eq!(
        (answer.techo, answer.echo_delay, answer.transmit_delay),
        (said.tval, 10_000, 1000)
    );
    a.arrived(START + MS * 50, 1, Some(&answer));
    assert_eq!(a.report().rtt, Some(MS * 40));
    assert_eq!(a.tell(START + MS * 50, MS).rtt, 40_000);
}

#[test]
fn what_was_overtaken_says_nothing_new() {
    let mut control = Control::new(3);
    let said = |tval| Congestion {
        tval,
        ..Congestion::default()
    };
    control.arrived(START, 2, Some(&said(22)));
    control.arrived(START + MS, 1, Some(&said(11)));
    assert_eq!(control.tell(START + MS * 3, MS).techo, 22);
    assert_eq!(control.tell(START + MS * 3, MS).echo_delay, 3000);
}

/// At least once in the peer's RTT, as long as something comes.
#[test]
fn how_often_is_told() {
    let mut control = Control::new(3);
    assert!(!control.has_news());
    for (sequence, rtt) in [(1, 0), (2, 300_000), (3, 10), (4, 0x3f_ffff)] {
        let said = Congestion {
            rtt,
            ..Congestion::default()
        };
        control.arrived(START, sequence, Some(&said));
        assert!(control.has_news());
        let least = Duration::from_micros(rtt.into()).max(if rtt == 0 { MS * 100 } else { FLOOR });
        assert!(control.telling() <= least && control.telling() >= MS * 5, "{rtt}");
        let _ = control.tell(START, MS);
        assert!(!control.has_news());
    }
    control.arrived(START, 5, None);
    assert!(control.has_news(), "also where nothing is said");
}

/// Once, before it has said anything itself.
#[test]
fn what_is_inherited() {
    let mut old = Control::new(3);
    old.set_bounds(Bounds::new(64_000, 10_000_000, 1500));
    let answer = Congestion {
        techo: stamp(START),
        tval: 5,
        rtt: 20_000,
        ..Congestion::default()
    };
    for sequence in [1, 2, 3, 5, 6, 7] {
        old.arrived(START + MS * 30, sequence, Some(&answer));
    }
    let mut new = Control::new(3);
    new.set_bounds(Bounds::new(64_000, 1_000_000, 1500));
    new.inherit(&old);
    new.inherit(&Control::new(3));
    let (before, after) = (old.report(), new.report());
    assert_ne!(before.received, 0);
    assert_eq!((after.rtt, after.received), (before.rtt, before.received));
    assert_eq!(after.rate, Some(1_000_000), "within bounds of its own");
    assert_eq!(new.tell(START + MS * 31, MS).techo, 5);
    let mut begun = Control::new(3);
    let _ = begun.tell(START, MS);
    begun.inherit(&old);
    assert_eq!(begun.report().rtt, None);
}
