#!/usr/bin/env python3
"""Reads a capture (pcap, Ethernet) taken between two gateways and fails unless all IP packets in it are UDP on port
500 or 4500 between the two public addresses, and no inner address or plain IP header shows in a payload."""
import collections, ipaddress, struct, sys

GATEWAYS = {"198.51.100.4", "203.0.113.7"}
INNER = [ipaddress.ip_address(a).packed for a in ("10.1.0.2", "10.2.0.2")]


def packets(path):
    data = open(path, "rb").read()
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}[data[:4]]
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack(order + "I", data[at + 8 : at + 12])[0]
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


def main():
    kinds, wrong = collections.Counter(), []
    for frame in packets(sys.argv[1]):
        ethertype = struct.unpack("!H", frame[12:14])[0]
        if ethertype == 0x0806:
            continue  # ARP between neighbours
        ip = frame[14:]
        if ethertype == 0x86DD and (ip[6] == 58 or (ip[6] == 0 and ip[40] == 58)):
            continue  # the neighbours' own ICMPv6 (multicast reports have a hop-by-hop header)
        if ethertype != 0x0800:
            wrong.append(f"ethertype {ethertype:#06x}")
            continue
        source, target = (str(ipaddress.ip_address(ip[i : i + 4])) for i in (12, 16))
        if {source, target} != GATEWAYS:
            wrong.append(f"{source} > {target}")
            continue
        if ip[9] != 17:
            wrong.append(f"{source} > {target} protocol {ip[9]}")
            continue
        header = 4 * (ip[0] & 15)
        if struct.unpack("!H", ip[6:8])[0] & 0x1FFF:
            kinds["fragments"] += 1
            continue
        ports = set(struct.unpack("!HH", ip[header : header + 4]))
        payload = ip[header + 8 :]
        if 500 in ports:
            kinds["IKE on 500"] += 1
        elif 4500 not in ports:
            wrong.append(f"{source} > {target} UDP ports {ports}")
        elif payload[:4] == bytes(4):
            kinds["IKE on 4500"] += 1
        elif payload == b"\xff":
            kinds["keepalives"] += 1
        else:
            kinds["ESP on 4500"] += 1
            # An inner header in the clear would show both addresses within its first octets.
            if all(address in payload[8:64] for address in INNER):
                wrong.append("an inner IP header in the clear")
    print("   " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())))
    for line in wrong[:10]:
        print("   NOT IPSEC:", line)
    if not kinds["ESP on 4500"] or not kinds["IKE on 4500"]:
        print("   the capture is empty: it proves nothing")
        return 1
    return 1 if wrong else 0


sys.exit(main())
