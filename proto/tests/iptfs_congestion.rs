//! IP-TFS with congestion control (RFC 9347 §2.4.2) over a simulated bottleneck: a link of one rate, with a queue that drops what
//! exceeds it, and a delay each way. No randomness: a run is what it is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use landbridge_proto::esp::aggfrag::{Bounds, Congestion, Control};
use landbridge_proto::time::Instant;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

const OCTETS: usize = 1500;
const MS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_micros(20);

/// What shares the path.
struct Path {
    /// Bits a second.
    rate: u64,
    /// Packets.
    queue: usize,
    /// Each way.
    delay: Duration,
}

/// A tunnel: its sender is behind the bottleneck, and hears from the receiver over a way that is never full.
struct Tunnel {
    near: Control,
    far: Control,
    next: Instant,
    back: Instant,
    sequence: u64,
    sequence_back: u64,
    answers: VecDeque<(Instant, u64, Congestion)>,
    /// By second.
    sent: Vec<u64>,
    lost: Vec<u64>,
}

impl Tunnel {
    fn new(least: u64, most: u64, begins: Instant) -> Self {
        let mut near = Control::new(3);
        near.set_bounds(Bounds::new(least, most, OCTETS));
        Self {
            near,
            far: Control::new(3),
            next: begins,
            back: begins,
            sequence: 0,
            sequence_back: 0,
            answers: VecDeque::new(),
            sent: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Megabits a second sent in these seconds, and the part of it that was lost.
    fn between(&self, from: usize, to: usize) -> (f64, f64) {
        let sum = |list: &[u64]| list[from..to].iter().sum::<u64>() as f64;
        let sent = sum(&self.sent);
        let rate = sent * 8.0 * OCTETS as f64 / 1e6 / (to - from) as f64;
        (rate, sum(&self.lost) / sent)
    }
}

/// Between two packets that the far ends send.
const BACK: Duration = Duration::from_millis(5);

/// Runs through these seconds; `others` says what else there is on the link in each, in bits a second; where that is more than the
/// link takes, nothing gets through, either way.
fn run(path: &Path, tunnels: &mut [Tunnel], seconds: Range<u64>, others: impl Fn(usize) -> u64) {
    let service = |rate: u64| Duration::from_nanos(OCTETS as u64 * 8 * 1_000_000_000 / rate);
    let takes = service(path.rate);
    // Whose, and what it says; `None` is of others.
    let mut queue: VecDeque<Option<(usize, u64, Congestion)>> = VecDeque::new();
    let mut arriving: VecDeque<(Instant, usize, u64, Congestion)> = VecDeque::new();
    let mut now = Instant::ZERO + Duration::from_secs(seconds.start);
    let (mut free, mut other) = (now, now);
    let end = Instant::ZERO + Duration::from_secs(seconds.end);
    while now < end {
        let second = (now.as_nanos() / 1_000_000_000) as usize;
        let cut = others(second) > path.rate;
        while free <= now {
            let Some(first) = queue.pop_front() else { break };
            if let Some((of, sequence, said)) = first {
                arriving.push_back((free + takes + path.delay, of, sequence, said));
            }
            free = free + takes;
        }
        if queue.is_empty() && free < now {
            free = now;
        }
        if others(second) > 0 && !cut {
            if other + MS * 100 < now {
                other = now;
            }
            while other <= now {
                other = other + service(others(second));
                if queue.len() < path.queue {
                    queue.push_back(None);
                }
            }
        }
        for (of, tunnel) in tunnels.iter_mut().enumerate() {
            tunnel.sent.resize(second + 1, 0);
            tunnel.lost.resize(second + 1, 0);
            while tunnel.next <= now {
                let interval = tunnel.near.interval(now);
                let said = tunnel.near.tell(now, interval);
                tunnel.next = tunnel.next + interval;
                tunnel.sequence += 1;
                tunnel.sent[second] += 1;
                if queue.len() < path.queue && !cut {
                    queue.push_back(Some((of, tunnel.sequence, said)));
                } else {
                    tunnel.lost[second] += 1;
                }
            }
            while tunnel.back <= now {
                let said = tunnel.far.tell(now, BACK);
                tunnel.back = tunnel.back + BACK;
                tunnel.sequence_back += 1;
                if !cut {
                    tunnel.answers.push_back((now + path.delay, tunnel.sequence_back, said));
                }
            }
            while tunnel.answers.front().is_some_and(|(at, ..)| *at <= now) {
                let (_, sequence, heard) = tunnel.answers.pop_front().unwrap();
                tunnel.near.arrived(now, sequence, Some(&heard));
            }
        }
        while arriving.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, of, sequence, heard) = arriving.pop_front().unwrap();
            tunnels[of].far.arrived(now, sequence, Some(&heard));
        }
        now = now + TICK;
    }
}

const LEAST: u64 = 64_000;
const MOST: u64 = 1_000_000_000;

/// 20 Mbit/s, 20 ms and a queue of as many.
const USUAL: Path = Path {
    rate: 20_000_000,
    queue: 40,
    delay: Duration::from_millis(10),
};

fn tunnel() -> Tunnel {
    Tunnel::new(LEAST, MOST, Instant::ZERO)
}

/// Alone on a link, however fast and long: most of it is used, and little is lost.
#[test]
fn it_finds_what_the_path_takes() {
    for (rate, delay, queue, parts) in [
        (500_000, MS * 10, 20, 0.9..1.05),
        (2_000_000, MS * 10, 20, 0.9..1.05),
        // A cable, as in the tests with namespaces.
        (20_000_000, MS / 20, 30, 0.9..1.05),
        (20_000_000, MS * 10, 40, 0.9..1.05),
        // It comes up by a packet an RTT in each second, as TFRC does.
        (20_000_000, MS * 75, 150, 0.6..1.05),
        (100_000_000, MS * 5, 100, 0.9..1.05),
    ] {
        let path = Path { rate, queue, delay };
        let mut tunnels = [tunnel()];
        run(&path, &mut tunnels, 0..60, |_| 0);
        let (sent, lost) = tunnels[0].between(30, 60);
        let part = sent * 1e6 / rate as f64;
        let told = || {
            format!(
                "{rate} bit/s, {delay:?}: {part} of it, {lost} lost, {:?}",
                tunnels[0].sent
            )
        };
        assert!(parts.contains(&part), "{}", told());
        assert!(lost < 0.02, "{}", told());
        // What slow start costs, until the first loss is heard of.
        assert!(tunnels[0].between(0, 2).1 < 0.6, "{}: {:?}", told(), tunnels[0].lost);
    }
}

#[test]
fn it_falls_on_congestion_and_recovers() {
    let mut tunnels = [tunnel()];
    // The others don't yield.
    run(&USUAL, &mut tunnels, 0..60, |second| match second {
        20..40 => 12_000_000,
        _ => 0,
    });
    let rates = [(10, 20), (25, 40), (45, 60)].map(|(from, to)| tunnels[0].between(from, to));
    let told = format!("{rates:?}: {:?}", tunnels[0].sent);
    assert!(rates[0].0 > 18.0 && rates[2].0 > 18.0, "{told}");
    assert!((4.0..9.0).contains(&rates[1].0), "{told}");
    assert!(rates[1].1 < 0.05, "{told}");
}

/// Nothing gets through for five seconds: it goes down to the least rate, and comes back.
#[test]
fn it_goes_quiet_when_nothing_gets_through() {
    let mut tunnels = [tunnel()];
    run(&USUAL, &mut tunnels, 0..40, |second| match second {
        20..25 => u64::MAX,
        _ => 0,
    });
    let told = format!("{:?}", tunnels[0].sent);
    assert!(tunnels[0].between(19, 20).0 > 18.0, "{told}");
    // 64 kbit/s are five packets.
    assert!(
        tunnels[0].sent[22..25].iter().all(|sent| (5..=6).contains(sent)),
        "{told}"
    );
    assert!(tunnels[0].between(35, 40).0 > 10.0, "{told}");
}

/// RFC 5348 §1: "we call a flow "reasonably fair" if its sending rate is generally within a factor of two of the sending rate of a
/// TCP flow under the same conditions", here of each other, also when one came later.
#[test]
fn two_share_what_there_is() {
    let late = Instant::ZERO + Duration::from_secs(20);
    let mut tunnels = [tunnel(), Tunnel::new(LEAST, MOST, late)];
    run(&USUAL, &mut tunnels, 0..120, |_| 0);
    let [a, b] = [0, 1].map(|of| tunnels[of].between(60, 120));
    assert!((0.5..2.0).contains(&(a.0 / b.0)), "{a:?} {b:?}");
    assert!((17.0..20.5).contains(&(a.0 + b.0)), "{a:?} {b:?}");
    assert!(a.1 < 0.02 && b.1 < 0.02, "{a:?} {b:?}");
}

#[test]
fn a_limit_is_a_limit() {
    let mut tunnels = [Tunnel::new(LEAST, 5_000_000, Instant::ZERO)];
    run(&USUAL, &mut tunnels, 0..20, |_| 0);
    let (rate, lost) = tunnels[0].between(5, 20);
    assert!((4.99..5.01).contains(&rate) && lost == 0.0, "{rate} {lost}");
    assert_eq!(tunnels[0].near.report().sent, 0);
    // The least rate is kept whatever is lost.
    let mut tunnels = [Tunnel::new(4_000_000, MOST, Instant::ZERO)];
    run(&USUAL, &mut tunnels, 0..20, |_| u64::MAX);
    let (rate, lost) = tunnels[0].between(5, 20);
    assert!((3.99..4.01).contains(&rate) && lost == 1.0, "{rate} {lost}");
}

/// A rekey: numbers begin anew, what was learnt of the path does not.
#[test]
fn a_rekey_goes_on() {
    let mut tunnels = [tunnel()];
    run(&USUAL, &mut tunnels, 0..20, |_| 0);
    let before = tunnels[0].near.report();
    for control in [&mut tunnels[0].near, &mut tunnels[0].far] {
        let mut new = Control::new(3);
        new.set_bounds(Bounds::new(LEAST, MOST, OCTETS));
        new.inherit(control);
        new.inherit(&Control::new(3));
        *control = new;
    }
    (tunnels[0].sequence, tunnels[0].sequence_back) = (0, 0);
    tunnels[0].answers.clear();
    assert_eq!(tunnels[0].near.report(), before);
    run(&USUAL, &mut tunnels, 20..30, |_| 0);
    for second in 20..30 {
        let (rate, lost) = tunnels[0].between(second, second + 1);
        assert!(rate > 17.0 && lost < 0.02, "{second}: {rate} {lost}");
    }
}
