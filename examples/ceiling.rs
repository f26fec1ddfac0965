//! Landbridge's data path without the key exchange and, unless a suite is named, without a cipher: the ceiling that
//! `netns-scripts/bench.sh` holds a tunnel against. It is an example and no part of the daemon, so that no configuration can
//! reach a tunnel that seals nothing.
//!
//! ```text
//! ceiling INTERFACE LOCAL REMOTE LOCAL_NET REMOTE_NET [none|aes128gcm16|aes256gcm16|chacha20poly1305]
//! ```
//!
//! It makes the interface (down, without addresses) and works until it is ended. The keys are the same at every start.

#![allow(clippy::print_stderr, reason = "a program for the terminal")]

#[path = "../proto/benches/null_cipher/mod.rs"]
mod null_cipher;

use landbridge::data::{DataOptions, DataPlane, InterfaceOptions, RawEsp, Sinks};
use landbridge_proto::crypto::{CipherSuite, ESP_PROVIDER, Encryption, Provider, Secret};
use landbridge_proto::esp::transform::inner_mtu;
use landbridge_proto::ip::tunnel::DontFragment;
use landbridge_proto::policy::sad::{
    ChildSaEntry, ChildSaId, Encapsulation, Mode, Path, SaParameters, SadUpdate, TrafficLimits,
};
use landbridge_proto::policy::selector;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Octets of the outer path.
const OUTER_MTU: usize = 1500;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [interface, local, remote, local_net, remote_net, suite @ ..] = words.as_slice() else {
        return Err("usage: ceiling INTERFACE LOCAL REMOTE LOCAL_NET REMOTE_NET [SUITE]".into());
    };
    let (provider, suite) = suite_of(suite.first().map_or("none", String::as_str))?;
    let (local, remote): (IpAddr, IpAddr) = (local.parse()?, remote.parse()?);
    let sizes = (provider.sizes)(suite).ok_or("no such suite")?;
    // The two ends are told apart by their addresses.
    let parameters = |to: IpAddr| {
        let first = to < if to == local { remote } else { local };
        SaParameters {
            spi: if first { 0x5540_0000 } else { 0x5540_0001 },
            suite,
            key: Secret::new(vec![if first { 0x5a } else { 0xc3 }; sizes.key_material()]),
            esn: true,
        }
    };
    let options = DataOptions {
        workers: std::thread::available_parallelism()?.get().min(8),
        raw: RawEsp::Off,
        provider,
        ..DataOptions::default()
    };
    let nat_port = options.nat_port;
    let sinks = Sinks {
        reports: Arc::new(|_| true),
        strays: Arc::new(|_, _| {}),
        audit: Arc::new(|audit| eprintln!("{audit}")),
        streams: Arc::new(|_| {}),
    };
    let (mut data, _sockets) = DataPlane::start(&options, sinks)?;
    let name = Arc::from("ceiling");
    let mtu = u16::try_from(inner_mtu(&sizes, OUTER_MTU, local.is_ipv6(), true))?;
    data.add_interface(
        &name,
        &InterfaceOptions {
            queues: 1,
            name: interface.clone(),
            mtu,
            clamp_mss: true,
            transport: false,
            dont_fragment: DontFragment::Clear,
            dscp: landbridge_proto::ip::tunnel::OuterDscp::default(),
        },
    )?;
    let id = ChildSaId(0);
    data.apply(&SadUpdate::InstallInbound(Arc::new(ChildSaEntry {
        id,
        connection: name,
        child: "net".into(),
        resource: 0,
        inbound: parameters(local),
        outbound: parameters(remote),
        local_ts: vec![selector::parse(local_net)?],
        remote_ts: vec![selector::parse(remote_net)?],
        path: Path::udp(SocketAddr::new(local, nat_port), SocketAddr::new(remote, nat_port)),
        encapsulation: Encapsulation::Udp,
        mode: Mode::Tunnel,
        replay_window: 4096,
        tfc_padding: None,
        aggfrag: None,
        limits: TrafficLimits::default(),
        iv_seed: Secret::new(vec![7; 32]),
    })));
    data.apply(&SadUpdate::ActivateOutbound { id, replaces: None });
    eprintln!("{interface}: {}, MTU {mtu}", provider.name);
    loop {
        std::thread::park();
    }
}

fn suite_of(word: &str) -> Result<(&'static Provider, CipherSuite), String> {
    let encryption = match word {
        "none" => return Ok((&null_cipher::PROVIDER, null_cipher::SUITE)),
        "aes128gcm16" => Encryption::AesGcm16_128,
        "aes256gcm16" => Encryption::AesGcm16_256,
        "chacha20poly1305" => Encryption::ChaCha20Poly1305,
        other => return Err(format!("{other:?}: none, aes128gcm16, aes256gcm16 or chacha20poly1305")),
    };
    let integrity = None;
    Ok((&ESP_PROVIDER, CipherSuite { encryption, integrity }))
}
