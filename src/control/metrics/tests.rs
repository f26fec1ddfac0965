use super::reader::Page;
use super::*;
use crate::data::Traffic;

fn gathered(stats: ConnectionStats, history: History) -> Gathered {
    let children: [ChildName; 2] = ["net".into(), "more".into()];
    let name = "a \"strange\\ name\n";
    Gathered {
        resident: Some(4096),
        drops: [("malformed".to_owned(), 2)].into(),
        offloads: vec![("udp-gso", true)],
        connections: vec![
            connection("cloud", children.iter(), &[], stats, history),
            connection(
                name,
                children.iter(),
                &[],
                ConnectionStats::default(),
                History::default(),
            ),
        ],
        ..Gathered::default()
    }
}

fn read(gathered: &Gathered) -> Page {
    let text = gathered.text();
    Page::read(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

#[test]
fn what_is_down_has_series_too_and_its_counters() {
    let own = ChildSaStats {
        inbound: Traffic {
            packets: 7,
            bytes: 12_345_678_901,
        },
        drops: vec![("replayed", 3), ("short", 1), ("too_old", 2)],
        ..ChildSaStats::default()
    };
    let stats = ConnectionStats {
        total: own.clone(),
        by_child: [("net".into(), own)].into(),
        children: Vec::new(),
    };
    let mut history = History::default();
    history.failed(1_800_000_000, "no_answer");
    let page = read(&gathered(stats, history));
    for (sample, value) in [
        ("landbridge_connection_up{connection=\"cloud\"}", 0.0),
        ("landbridge_child_up{child=\"net\",connection=\"cloud\"}", 0.0),
        ("landbridge_child_up{child=\"more\",connection=\"cloud\"}", 0.0),
        (
            "landbridge_connection_traffic_bytes_total{connection=\"cloud\",direction=\"in\"}",
            12_345_678_901.0,
        ),
        (
            "landbridge_child_traffic_packets_total{child=\"net\",connection=\"cloud\",direction=\"in\"}",
            7.0,
        ),
        (
            "landbridge_connection_drops_total{cause=\"replayed\",connection=\"cloud\"}",
            3.0,
        ),
        (
            "landbridge_connection_drops_total{cause=\"short\",connection=\"cloud\"}",
            1.0,
        ),
        (
            "landbridge_connection_drops_total{cause=\"no_sa\",connection=\"cloud\"}",
            0.0,
        ),
        (
            "landbridge_child_replayed_packets_total{child=\"net\",connection=\"cloud\"}",
            5.0,
        ),
        (
            "landbridge_connection_failures_total{connection=\"cloud\",reason=\"no_answer\"}",
            1.0,
        ),
        (
            "landbridge_connection_failures_total{connection=\"cloud\",reason=\"refused\"}",
            0.0,
        ),
        (
            "landbridge_connection_last_failure_timestamp_seconds{connection=\"cloud\",reason=\"no_answer\"}",
            1_800_000_000.0,
        ),
        ("landbridge_connection_ike_rekeys_total{connection=\"cloud\"}", 0.0),
        ("landbridge_child_rekeys_total{child=\"net\",connection=\"cloud\"}", 0.0),
        (
            "landbridge_connection_up{connection=\"a \\\"strange\\\\ name\\n\"}",
            0.0,
        ),
    ] {
        assert_eq!(page.get(sample), value, "{sample}");
    }
}

#[test]
fn certificates_of_one_name_are_one_series() {
    let expiry = |not_after| Expiry {
        connection: "cloud".to_owned(),
        what: "the CA",
        subject: "CN=ca".to_owned(),
        file: "ca.pem".to_owned(),
        not_before: 0,
        not_after,
    };
    let list = expiries(&[expiry(Some(9)), expiry(Some(5)), expiry(None), expiry(Some(7))]);
    assert_eq!(list.into_values().collect::<Vec<_>>(), [5]);
}

#[test]
fn the_reader_is_strict() {
    let good = "# TYPE a counter\n# HELP a x\na_total{b=\"c\"} 1\n# EOF\n";
    assert!(Page::read(good).is_ok());
    for (part, with) in [
        ("# EOF\n", ""),
        ("a_total", "a"),
        ("} 1\n", "} -1\n"),
        ("} 1\n", "} one\n"),
        ("} 1\n", "} 1\na_total{b=\"c\"} 2\n"),
        ("\"c\"", "\"c\\d\""),
        ("\"c\"", "\"c\",b=\"d\""),
        ("b=", "0b="),
        ("# HELP a", "# HELP b"),
        ("# EOF", "# TYPE a counter\n# EOF"),
        ("counter", "thing"),
    ] {
        assert!(Page::read(&good.replace(part, with)).is_err(), "{with:?} for {part:?}");
    }
}
