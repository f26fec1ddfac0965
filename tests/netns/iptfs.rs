//! IP-TFS (RFC 9347) from the configuration to the wire.

use super::support::transfer::{both_ways, one_way, ping};
use super::{Options, Pair};

fn iptfs(pair: &Pair) -> [serde_json::Value; 2] {
    [&pair.a, &pair.b].map(|gateway| {
        let status = gateway.connection(&pair.world, "site");
        status["ike_sas"][0]["children"][0]["iptfs"].clone()
    })
}

#[test]
fn aggregated_through_rekeys() {
    for child in [
        "iptfs = { mode = \"aggregate\", required = true }",
        "iptfs = { mode = \"aggregate\", delay = \"1ms\", size = 1200, fragments = false }",
    ] {
        let options = Options {
            child,
            ..Options::default()
        };
        let Some(pair) = Pair::up("IP-TFS, aggregate", options) else {
            return;
        };
        assert_eq!(iptfs(&pair), ["aggregate", "aggregate"]);
        assert!(ping(&pair.world, "ha", "10.2.0.2"));
        both_ways(&pair.world);
        pair.a.client(&pair.world, &["rekey", "site"]);
        pair.b.client(&pair.world, &["rekey", "site", "--ike"]);
        both_ways(&pair.world);
        assert_eq!(iptfs(&pair), ["aggregate", "aggregate"]);
    }
}

#[test]
fn at_a_constant_rate() {
    let options = Options {
        child: "iptfs = { mode = \"constant\", rate = \"40Mbit/s\", size = 1300 }",
        ..Options::default()
    };
    let Some(pair) = Pair::up("IP-TFS, constant", options) else {
        return;
    };
    assert_eq!(iptfs(&pair), ["constant", "constant"]);
    assert!(ping(&pair.world, "ha", "10.2.0.2"));
    one_way(&pair.world, "ha", "hb", "10.2.0.2", 2_000_000);
    pair.a.client(&pair.world, &["rekey", "site"]);
    one_way(&pair.world, "hb", "ha", "10.1.0.2", 2_000_000);
    // Larger than the tunnel's MTU: it is cut and put together again.
    let mut big = pair.world.command("ha", "ping");
    big.args(["-q", "-c", "2", "-W", "2", "-s", "4000", "10.2.0.2"]);
    assert!(big.output().unwrap().status.success());
}
