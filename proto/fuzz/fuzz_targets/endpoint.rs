//! Any datagrams at an endpoint that serves anybody: no panic, bounded state.
#![no_main]
use landbridge_proto::crypto::Secret;
use landbridge_proto::ike::Endpoint;
use landbridge_proto::policy::connection::{Config, Connection, Gateway, LocalAuth, LocalCredential, RemoteAuth, RemoteCredential};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::policy::sad::Path;
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::Identification;
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    let id = |text| Identification::parse(text).expect("a name");
    let connection = Connection {
        name: "any".into(),
        local_addrs: vec![],
        remote_addrs: vec![],
        remote_port: 500,
        ike_proposals: IkeProposal::defaults(),
        local: LocalAuth { id: id("us.example"), credential: LocalCredential::Psk(Secret::new(vec![1; 32])) },
        remote: RemoteAuth { id: None, credential: RemoteCredential::Psk(vec![Secret::new(vec![1; 32])]) },
        ike_rekey_time: None,
        dpd_delay: None,
        fragmentation: true,
        fragment_size: 1280,
        force_udp_encapsulation: true,
        mobike: true,
        keep_trying: true,
        children: [].into(),
    };
    let config = Config { connections: [("any".into(), Arc::new(connection))].into(), gateway: Gateway::default() };
    let now = Now { instant: Instant::from_nanos(1), unix: 0 };
    let mut endpoint = Endpoint::new(now, [1; 32], Arc::new(config));
    let path = Path { local: "192.0.2.1:500".parse().expect("an address"), remote: "192.0.2.2:500".parse().expect("an address") };
    for datagram in octets.chunks(400) {
        endpoint.handle_datagram(now, path, datagram);
    }
    assert!(endpoint.status().len() <= octets.len() / 28 + 1);
});
