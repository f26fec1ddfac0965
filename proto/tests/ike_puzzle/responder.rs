//! As responder: who is asked for a puzzle, and what is taken for a solution.

use super::*;

/// The puzzle of an answer.
fn puzzle_of(answer: &Message) -> Puzzle {
    assert_eq!(answer.notifies(), [NotifyType::COOKIE, NotifyType::PUZZLE]);
    assert_eq!(answer.payloads.len(), 2);
    assert_eq!(answer.header.spi_r, IkeSpi::ZERO);
    let notify = answer.notify(NotifyType::PUZZLE).unwrap();
    // §8.1: PRF, two octets, and difficulty, one.
    let [high, low, difficulty] = notify.data[..] else {
        panic!("{notify:?}")
    };
    Puzzle {
        prf: PrfAlgorithm::from_id(PrfId(u16::from_be_bytes([high, low]))).unwrap(),
        difficulty,
        string: answer.notify(NotifyType::COOKIE).unwrap().data.clone(),
    }
}

fn with(puzzle: &Puzzle, solution: Option<&[u8]>, payloads: &[Payload]) -> Vec<Payload> {
    let mut out = vec![notify_with(NotifyType::COOKIE, &puzzle.string)];
    out.extend(solution.map(|solution| Payload::PuzzleSolution(solution.to_vec())));
    out.extend_from_slice(payloads);
    out
}

/// Solves in the first or the last way.
fn solved(puzzle: &Puzzle, payloads: &[Payload]) -> Vec<Payload> {
    with(puzzle, Some(&puzzle.clone().solve().unwrap()), payloads)
}

/// Another address for each number.
fn from(t: &Tester, number: u32) -> Path {
    Path::udp(
        t.path.local,
        (std::net::Ipv4Addr::from(0x0a00_0000 + number), 500).into(),
    )
}

/// Half-open SAs from so many addresses, each of which solves its puzzle if it is asked to (and returns its cookie alone
/// otherwise). How many got in.
fn flood(t: &mut Tester, numbers: std::ops::Range<u32>, solves: bool) -> usize {
    let before = t.dut.load().half_open;
    let (spi, path) = (t.sa.spi_i, t.path);
    let payloads = t.init_payloads();
    for number in numbers {
        t.sa.spi_i = IkeSpi((u64::from(number) << 20 | 0xbad).to_be_bytes());
        t.path = from(t, number);
        let datagram = t.init_datagram(&payloads);
        let [sent] = &t.ask(&datagram)[..] else { continue };
        let answer = t.open(std::slice::from_ref(sent));
        let Some(cookie) = answer.notify(NotifyType::COOKIE) else {
            continue;
        };
        let again = if answer.has(NotifyType::PUZZLE) && solves {
            solved(&puzzle_of(&answer), &payloads)
        } else {
            let mut again = vec![notify_with(NotifyType::COOKIE, &cookie.data)];
            again.extend_from_slice(&payloads);
            again
        };
        let datagram = t.init_datagram(&again);
        t.ask(&datagram);
    }
    (t.sa.spi_i, t.path) = (spi, path);
    t.dut.load().half_open - before
}

/// A flood from everywhere with forged addresses, which never return a cookie, keeps nobody out and gets nothing.
#[test]
fn a_spoofed_flood() {
    let mut t = Tester::with(side_b(), Gateway::default());
    let payloads = t.init_payloads();
    let mut octets = [0, 0];
    for number in 0..2000 {
        t.sa.spi_i = IkeSpi(u64::from(number + 1).to_be_bytes());
        let datagram = t.init_datagram(&payloads);
        t.out.clear();
        t.send_from(from(&t, number), &datagram);
        octets[0] += datagram.len();
        octets[1] += t.out.iter().map(|sent| sent.octets.len()).sum::<usize>();
    }
    assert_eq!(t.dut.load().half_open, Gateway::default().cookie_threshold);
    assert!(octets[1] < octets[0], "no amplification: {octets:?}");
    assert_eq!(t.counters().puzzles_sent, 0, "cookies are enough");
    flood(&mut t, 5000..5001, true);
    assert_eq!(t.dut.load().half_open, Gateway::default().cookie_threshold + 1);
}

/// Addresses that are real, as many as the flood likes: who solves gets in, who does not fills half of the room at most.
#[test]
fn an_unspoofed_flood() {
    let gateway = Gateway {
        cookie_threshold: 10,
        puzzle_threshold: 20,
        half_open_limit: 100,
        puzzle_difficulty: 9,
        ..Gateway::default()
    };
    let mut t = Tester::with(side_b(), gateway.clone());
    flood(&mut t, 0..3000, false);
    let half = t.dut.load().half_open;
    assert!(
        (50..=60).contains(&half),
        "half of what lies between 20 and 100: {half}"
    );
    assert!(t.counters().puzzles_unsolved > 2000);
    // The honest one gets through, up to the end.
    let payloads = t.init_payloads();
    let answer = t.init(&payloads);
    let puzzle = puzzle_of(&answer);
    t.init(&solved(&puzzle, &payloads));
    let payloads = t.auth_payloads();
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
    // So do others that solve, until there is no room at all.
    assert_eq!(flood(&mut t, 10_000..10_100, true), 100 - half);
    let before = t.counters();
    assert_eq!(flood(&mut t, 20_000..20_010, true), 0);
    assert_eq!(t.counters().over_limit, before.over_limit + 10);
    // When it is over all is as before.
    t.pass(Duration::from_secs(120));
    t.out.clear();
    assert_eq!(t.dut.load().half_open, 0);
    assert_eq!(flood(&mut t, 30_000..30_001, false), 1);
    assert!(t.dut.load().solved_puzzles <= 1 + 100);
}

/// One address: §4.2, "Soft Limit -- where if a set number of half-open SAs exist for a particular address or prefix, any
/// IKE_SA_INIT request will be required to solve a puzzle". Others are not asked.
#[test]
fn many_from_one_address() {
    let gateway = Gateway {
        cookie_threshold: 10,
        half_open_limit_per_address: 20,
        puzzle_difficulty: 8,
        ..Gateway::default()
    };
    let mut t = Tester::with(side_b(), gateway);
    let payloads = t.init_payloads();
    let mut number = 0;
    let mut next = |t: &mut Tester| {
        number += 1;
        t.sa.spi_i = IkeSpi([number; 8]);
        let datagram = t.init_datagram(&payloads);
        let sent = t.ask(&datagram);
        sent.first().map(|sent| t.open(std::slice::from_ref(sent)))
    };
    for _ in 0..10 {
        assert_ne!(next(&mut t).unwrap().header.spi_r, IkeSpi::ZERO);
    }
    let answer = next(&mut t).unwrap();
    let puzzle = puzzle_of(&answer);
    // Somebody from elsewhere shows a cookie, and that is all.
    let path = t.path;
    t.path = from(&t, 1);
    assert_eq!(next(&mut t).unwrap().notifies(), [NotifyType::COOKIE]);
    t.path = path;
    t.sa.spi_i = IkeSpi([11; 8]);
    let answer = t.init(&solved(&puzzle, &payloads));
    assert_ne!(answer.header.spi_r, IkeSpi::ZERO);
}

/// §4.2: a /64 of IPv6 counts as one address.
#[test]
fn a_network_of_ipv6_is_one_address() {
    let gateway = Gateway {
        half_open_limit_per_address: 4,
        ..Gateway::default()
    };
    let mut t = Tester::with(side_b(), gateway);
    let payloads = t.init_payloads();
    let mut ask = |host: u16, network: u16| {
        let remote = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host);
        t.sa.spi_i = IkeSpi([1 + host as u8; 8]);
        t.path = Path::udp("[2001:db8:9::1]:500".parse().unwrap(), (remote, 500).into());
        let datagram = t.init_datagram(&payloads);
        t.ask(&datagram).len()
    };
    assert_eq!((0..6).map(|host| ask(host, 1)).collect::<Vec<_>>(), [1, 1, 1, 1, 0, 0]);
    assert_eq!(ask(7, 2), 1);
    t.pass(Duration::from_secs(60));
    assert_eq!(t.dut.load().half_open, 0);
}

/// §7.1.1.3: "implementations MUST ensure that an attacker gains no or insignificant benefit from reusing puzzle solutions in
/// several requests."
#[test]
fn a_solution_buys_one_sa() {
    let mut t = Tester::with(side_b(), always());
    let payloads = t.init_payloads();
    let answer = t.init(&payloads);
    let puzzle = puzzle_of(&answer);
    let good = solved(&puzzle, &payloads);
    t.init(&good);
    assert_eq!(t.dut.load().half_open, 1);
    // The same request gets the same answer.
    let datagram = t.init_datagram(&good);
    assert_ne!(t.ask(&datagram)[0].header().spi_r, IkeSpi::ZERO);
    // Another with the same solution, from the same address with the same SPI and nonce, does not: it is asked anew.
    let mut other = good.clone();
    other.push(Payload::VendorId(vec![1]));
    let again = t.init(&other);
    puzzle_of(&again);
    assert_eq!(t.dut.load().half_open, 1);
    // Nor when the first is gone.
    t.pass(31 * SECOND);
    assert_eq!(t.dut.load().half_open, 0);
    let again = t.init(&other);
    assert_ne!(puzzle_of(&again).string, puzzle.string);
    assert_eq!(t.dut.load().half_open, 0);
}

/// Nor does it buy work again and again that comes to nothing: a public value that is no point costs us a key exchange.
#[test]
fn a_solution_buys_one_key_exchange() {
    let mut t = Tester::with(side_b(), always());
    let payloads = t.init_payloads();
    let puzzle = puzzle_of(&t.init(&payloads));
    let mut bad = solved(&puzzle, &payloads);
    for payload in &mut bad {
        if let Payload::Ke(ke) = payload {
            ke.data.fill(0);
        }
    }
    let datagram = t.init_datagram(&bad);
    assert!(t.ask(&datagram).is_empty());
    assert_eq!(t.dut.counters().malformed, 1);
    puzzle_of(&t.init(&solved(&puzzle, &payloads)));
    assert_eq!(t.dut.load().half_open, 0);
}

/// By UDP who solves nothing repeats its request and draws again; by TCP nothing is repeated (RFC 9329 §6.2), so it is asked again.
#[test]
fn who_solves_none_is_asked_again_by_tcp() {
    for tcp in [false, true] {
        // Nobody gets in without.
        let gateway = Gateway {
            half_open_limit: 2,
            ..always()
        };
        let mut t = Tester::with(side_b(), gateway);
        flood(&mut t, 0..1, true);
        if tcp {
            t.path = Path::tcp(t.path.local, t.path.remote);
        }
        let payloads = t.init_payloads();
        let puzzle = puzzle_of(&t.init(&payloads));
        let mut answers = 0;
        for _ in 0..8 {
            let datagram = t.init_datagram(&with(&puzzle, None, &payloads));
            if let [sent] = &t.ask(&datagram)[..] {
                puzzle_of(&t.open(std::slice::from_ref(sent)));
                answers += 1;
            }
        }
        assert_eq!(answers, if tcp { 8 } else { 0 });
    }
}

/// §7.1.4: wrong solutions, and solutions of nothing, make a request no better than one without.
#[test]
fn what_is_no_solution() {
    // No chance without.
    let gateway = Gateway {
        half_open_limit: 2,
        ..always()
    };
    let mut t = Tester::with(side_b(), gateway);
    flood(&mut t, 0..1, true);
    let payloads = t.init_payloads();
    let answer = t.init(&payloads);
    let puzzle = puzzle_of(&answer);
    let right = puzzle.clone().solve().unwrap();
    let silent = |t: &mut Tester, payloads: &[Payload]| {
        let datagram = t.init_datagram(payloads);
        assert!(t.ask(&datagram).is_empty());
        assert_eq!(t.dut.load().half_open, 1);
    };
    let mut wrong = vec![right.clone(); 4];
    wrong[0][3] ^= 1;
    wrong[1].copy_within(0..4, 4);
    wrong[2] = vec![7; 33 * 4];
    wrong[3].rotate_left(1);
    for (at, wrong) in wrong.iter().enumerate() {
        silent(&mut t, &with(&puzzle, Some(wrong), &payloads));
        assert_eq!(t.counters().puzzles_wrong, 1 + at as u64);
    }
    silent(&mut t, &with(&puzzle, None, &payloads));
    // §8.2: empty, or of a size that is no multiple of four: malformed.
    for wrong in [&right[..0], &right[..15]] {
        let malformed = t.counters().malformed;
        silent(&mut t, &with(&puzzle, Some(wrong), &payloads));
        assert_eq!(t.counters().malformed, malformed + 1);
    }
    // Two of them.
    let mut twice = with(&puzzle, Some(&right), &payloads);
    twice.insert(1, Payload::PuzzleSolution(right.clone()));
    silent(&mut t, &twice);
    // From elsewhere, or with another SPI or difficulty, the cookie is none: it is asked anew.
    let datagram = t.init_datagram(&with(&puzzle, Some(&right), &payloads));
    t.out.clear();
    t.send_from(from(&t, 9), &datagram);
    let sent = t.out.pop_front().unwrap();
    assert_ne!(puzzle_of(&t.open(&[sent])).string, puzzle.string);
    let mut easier = puzzle.clone();
    easier.string[3] = 0;
    easier.difficulty = 0;
    let again = t.init(&with(&easier, Some(&easier.clone().solve().unwrap()), &payloads));
    puzzle_of(&again);
    assert_eq!(t.dut.load().half_open, 1);
    // And the right one is right.
    assert_ne!(
        t.init(&with(&puzzle, Some(&right), &payloads)).header.spi_r,
        IkeSpi::ZERO
    );
}

/// A cookie that was given without a puzzle is no string to solve for, whatever comes with it.
#[test]
fn a_solution_that_nobody_asked_for() {
    let gateway = Gateway {
        half_open_limit: 3,
        puzzle_threshold: 2,
        ..always()
    };
    let mut t = Tester::with(side_b(), gateway);
    flood(&mut t, 0..1, false);
    let payloads = t.init_payloads();
    let answer = t.init(&payloads);
    assert_eq!(answer.notifies(), [NotifyType::COOKIE]);
    let plain = Puzzle {
        prf: PrfAlgorithm::HmacSha256,
        difficulty: 8,
        string: answer.notify(NotifyType::COOKIE).unwrap().data.clone(),
    };
    // Meanwhile it has become more.
    flood(&mut t, 1..2, false);
    let counters = t.counters();
    let gone_on = t.init(&solved(&plain, &payloads));
    assert_eq!(t.counters().puzzles_solved, counters.puzzles_solved);
    // The lottery, or a puzzle of its own.
    assert!(gone_on.header.spi_r != IkeSpi::ZERO || gone_on.has(NotifyType::PUZZLE));
}

/// A puzzle has to be solved within a minute.
#[test]
fn late_solutions() {
    for (wait, taken) in [(59, true), (61, false)] {
        let mut t = Tester::with(side_b(), always());
        let payloads = t.init_payloads();
        let answer = t.init(&payloads);
        let puzzle = puzzle_of(&answer);
        t.pass(wait * SECOND);
        let answer = t.init(&solved(&puzzle, &payloads));
        assert_eq!(answer.header.spi_r != IkeSpi::ZERO, taken, "{wait}");
        assert_eq!(answer.has(NotifyType::PUZZLE), !taken);
    }
}

/// §7.1.1.2: the PRF is one that both have; "If there are no mutually supported PRFs ... the Responder returns a
/// NO_PROPOSAL_CHOSEN notification."
#[test]
fn the_prf_of_a_puzzle() {
    let mut b = side_b();
    b.ike_proposals = vec![
        IkeProposal::parse("aes256gcm16-prfsha512-x25519").unwrap(),
        IkeProposal::parse("aes256gcm16-prfsha384-x25519").unwrap(),
    ];
    let mut t = Tester::with(b, always());
    let mut ask = |prfs: &[PrfId]| {
        let mut payloads = t.init_payloads();
        let mut transforms = ike_transforms();
        transforms.retain(|transform| transform.transform_type != TransformType::PRF);
        transforms.extend(prfs.iter().map(|prf| transform(TransformType::PRF, prf.0)));
        payloads[0] = sa(vec![proposal(
            1,
            landbridge_proto::wire::ProtocolId::IKE,
            &[],
            transforms,
        )]);
        t.init(&payloads)
    };
    // Ours is preferred, and what is not known is passed over.
    let all = [
        PrfId::HMAC_SHA2_256,
        PrfId::HMAC_SHA2_384,
        PrfId::HMAC_SHA2_512,
        PrfId(999),
    ];
    assert_eq!(puzzle_of(&ask(&all)).prf, PrfAlgorithm::HmacSha512);
    assert_eq!(puzzle_of(&ask(&all[..2])).prf, PrfAlgorithm::HmacSha384);
    for none in [&all[..1], &[PrfId::HMAC_MD5, PrfId(999)]] {
        assert_eq!(ask(none).notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    }
}

/// RFC 9329 §6.3: "the Responder MUST NOT include the Initiator's TCP port into the Cookie calculation (*) since the Cookie can be
/// returned over a new TCP connection with a different port." By UDP it is in it.
#[test]
fn a_solution_by_another_tcp_connection() {
    for (tcp, taken) in [(true, true), (false, false)] {
        let mut t = Tester::with(side_b(), always());
        let path = |port: u16| {
            let remote = std::net::SocketAddr::new(t.path.remote.ip(), port);
            if tcp {
                Path::tcp(t.path.local, remote)
            } else {
                Path::udp(t.path.local, remote)
            }
        };
        let (first, second) = (path(40_001), path(40_002));
        t.path = first;
        let payloads = t.init_payloads();
        let answer = t.init(&payloads);
        t.path = second;
        let answer = t.init(&solved(&puzzle_of(&answer), &payloads));
        assert_eq!(answer.header.spi_r != IkeSpi::ZERO, taken);
    }
}

/// The answer with a puzzle is shorter than the shortest request.
#[test]
fn no_amplification() {
    let mut t = Tester::with(side_b(), always());
    let mut payloads = t.init_payloads();
    payloads[2] = nonce(&[3; 16]);
    let datagram = t.init_datagram(&payloads);
    let sent = t.ask(&datagram);
    assert!(sent.len() == 1 && sent[0].octets.len() < datagram.len());
}

// As initiator.
