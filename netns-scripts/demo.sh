#!/usr/bin/env bash
# The main job, shown: an office and a cloud network are joined over an "internet" by two Landbridge gateways, one of
# them behind a NAT. Everything runs in network namespaces of its own and is removed at the end, also when interrupted.
#
#   sudo netns-scripts/demo.sh
. "$(dirname "$0")/lib.sh"
. "$LB_TOP/netns-scripts/topology.sh"
need_root
step "Getting ready"
need_packages iproute2 iputils-ping nftables tcpdump iperf3 procps openssl python3
(cd "$LB_TOP" && cargo build --release --quiet)
LB=$LB_TOP/target/release/landbridge
[ -n "${CARGO_TARGET_DIR:-}" ] && LB=$CARGO_TARGET_DIR/release/landbridge
good "built $("$LB" version | head -1)"
begin
office_and_cloud
good "namespaces: office-host, office-gw, nat, internet, cloud-gw, cloud-host"
say "${LB_DIM}office 10.1.0.0/24 - gateway 192.168.50.2 - NAT 198.51.100.4 - internet - gateway 203.0.113.7 - cloud 10.2.0.0/24$LB_OFF"

# The two configurations as they stand in configs/, with a fresh pre-shared key beside each.
for side in office cloud; do
    mkdir -p "$LB_TMP/$side"
    cp "$LB_TOP/configs/$side.toml" "$LB_TMP/$side/landbridge.toml"
done
"$LB" keygen --psk "$LB_TMP/office/office-cloud.psk" >/dev/null
cp -p "$LB_TMP/office/office-cloud.psk" "$LB_TMP/cloud/office-cloud.psk"

background capture internet tcpdump -i isp0 -n -U -s 96 -w "$LB_TMP/wire.pcap"
wait_until 5 grep -q listening "$LB_TMP/capture.log" || fail "tcpdump did not start"

gateway() { background "$1" "$1-gw" "$LB" run --config "$LB_TMP/$1/landbridge.toml" --socket "$LB_TMP/$1.sock"; }
office() { ns office-gw "$LB" --socket "$LB_TMP/office.sock" "$@"; }
cloud() { ns cloud-gw "$LB" --socket "$LB_TMP/cloud.sock" "$@"; }
logs() { tail -n 40 "$LB_TMP/office.log" "$LB_TMP/cloud.log" >&2; }

step "The tunnel comes up"
gateway cloud
wait_until 10 test -S "$LB_TMP/cloud.sock" || { logs; fail "the cloud gateway did not start"; }
began=$(date +%s%N)
gateway office
up() { office status --json | python3 -c 'import json,sys; s=json.load(sys.stdin); sys.exit(not any(c["state"]=="up" for c in s["connections"]))'; }
wait_until 15 up || { logs; fail "no tunnel after 15 seconds"; }
good "up $((($(date +%s%N) - began) / 1000000)) ms after the office gateway was started"
grep -h -E 'IKE SA|Child SA' "$LB_TMP/office.log" | sed -e 's/^/       /' || :

step "Ping, host to host"
ns office-host ping -q -c 10 -i 0.1 10.2.0.2 >"$LB_TMP/ping" || { logs; fail "no answer through the tunnel"; }
good "$(grep received "$LB_TMP/ping"); $(sed -n 's/^rtt/round trip/p' "$LB_TMP/ping")"

step "64 MB by TCP, both ways, compared by SHA-256"
head -c 64000000 /dev/urandom >"$LB_TMP/sent"
want=$(sha256sum <"$LB_TMP/sent" | cut -d' ' -f1)
transfer() {        # FROM TO ADDRESS
    rm -f "$LB_TMP/received" "$LB_TMP/port"
    background sink "$2" python3 -c '
import socket, sys
s = socket.create_server(("0.0.0.0", 0)); open(sys.argv[2], "w").write(str(s.getsockname()[1]))
c, _ = s.accept()
with open(sys.argv[1], "wb") as f:
    while d := c.recv(1 << 20): f.write(d)
' "$LB_TMP/received" "$LB_TMP/port"
    wait_until 5 test -s "$LB_TMP/port"
    ns "$1" python3 -c '
import socket, sys
with socket.create_connection((sys.argv[2], int(sys.argv[3]))) as c, open(sys.argv[1], "rb") as f: c.sendfile(f)
' "$LB_TMP/sent" "$3" "$(cat "$LB_TMP/port")"
    wait "$LB_PID_sink" || :
    [ "$(sha256sum <"$LB_TMP/received" | cut -d' ' -f1)" = "$want" ] || { logs; fail "the received data differ"; }
    good "$1 -> $2  sha256 ${want:0:16}... on both ends"
}
transfer office-host cloud-host 10.2.0.2
transfer cloud-host office-host 10.1.0.2

step "Throughput, one TCP stream (iperf3, this machine carries both hosts and both gateways)"
background iperf cloud-host iperf3 -s -1 --forceflush
wait_until 5 grep -q listening "$LB_TMP/iperf.log" || fail "iperf3 did not start"
ns office-host iperf3 -c 10.2.0.2 -t 5 -J >"$LB_TMP/iperf.json" || { logs; fail "iperf3"; }
good "$(python3 -c '
import json, sys
e = json.load(open(sys.argv[1]))["end"]
print("%.2f Gbit/s" % (e["sum_received"]["bits_per_second"] / 1e9))' "$LB_TMP/iperf.json")"

step "landbridge status (office gateway)"
office status

step "What crossed the internet"
end_pid "$LB_PID_capture"
python3 "$LB_TOP/netns-scripts/only-ipsec.py" "$LB_TMP/wire.pcap" || fail "something else was on the wire"
good "nothing but IKE and ESP in UDP between the gateways: no octet of the hosts' traffic in the clear"

step "A clean stop"
end_pid "$LB_PID_office"
down() { ! cloud status --json | python3 -c 'import json,sys; s=json.load(sys.stdin); sys.exit(not any(c["state"]=="up" for c in s["connections"]))'; }
wait_until 5 down || { logs; fail "the cloud gateway was not told"; }
good "the office gateway deleted its SAs; the cloud gateway knows"
ns office-gw ip route get 10.2.0.2 2>&1 | grep -q lb- && fail "a route was left behind"
good "its interface and routes are gone"
printf '\n%sDone.%s\n' "$LB_BOLD" "$LB_OFF"
