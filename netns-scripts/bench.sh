#!/usr/bin/env bash
# Landbridge and its peers side by side: throughput, latency, CPU and memory, in network namespaces of this run, with the
# goals and whether they are met. Installs and builds what is missing, and removes what it made, also when interrupted.
#
#   sudo netns-scripts/bench.sh --quick                       a first look: some contestants, ping and TCP
#   sudo netns-scripts/bench.sh --rounds 5                    all of it, on all three wires: some hours
#   sudo netns-scripts/bench.sh --rounds 5 --wire default --only tunlimit landbridge-aes256gcm wireguard-go-debian
#   sudo netns-scripts/bench.sh --profile --only landbridge-aes256gcm         where the time goes (perf)
#   netns-scripts/bench.sh --help
#
# WIRE=default: the internet passes what UDP_SEGMENT sent as one piece, as a NIC with USO and UDP GRO does. nic: no
# segmentation offload, GRO on receipt. plain: neither. Figures go to target/bench/TIME: raw.tsv, summary.md, summary.tsv,
# goals.tsv, chart.svg. Compare only what was measured in one run; the machine must have nothing else to do.
#
# LANDBRIDGE_BENCH_NO_BUILD=1 takes what is built and installed already.
. "$(dirname "$0")/lib.sh"
BENCH=$LB_TOP/netns-scripts/bench
case " $* " in *" --help "*|*" -h "*|*" --list "*|*" --table "*) exec python3 "$BENCH/bench.py" "$@" ;; esac
need_root
CACHE=$LB_TOP/netns-scripts/.cache/bench
mkdir -p "$CACHE/bin"

# From crates.io, built once. Another version is another contestant: the number stands in docs/performance.md.
crate() {       # NAME VERSION BINARY
    [ -x "$CACHE/bin/$3" ] && return 0
    say "building $1 $2 (once)"
    cargo install --quiet --locked --root "$CACHE" --target-dir "$CACHE/target" "$1" --version "$2" ||
        say "$1 can't be built here: it is left out"
}

if [ "${LANDBRIDGE_BENCH_NO_BUILD:-0}" != 1 ]; then
    step "Getting ready"
    need_packages build-essential iproute2 iputils-ping iperf3 ethtool procps openssl python3 kmod wireguard-go wireguard-tools openvpn
    "$LB_TOP/netns-scripts/peers/fetch" strongswan >/dev/null
    cc -O3 -march=native -o "$CACHE/bin/tunpipe" "$BENCH/tunpipe.c"
    cc -O2 -o "$CACHE/bin/udpgen" "$BENCH/udpgen.c"
    (cd "$LB_TOP" && cargo build --release --quiet --bin landbridge --example ceiling)
    crate boringtun-cli 0.7.1 boringtun-cli
    crate gotatun-cli 0.10.2 gotatun
fi
case " $* " in *" --profile "*) command -v perf >/dev/null || need_packages linux-perf ;; esac
exec python3 "$BENCH/bench.py" "$@"
