# The network of the demo; sourced after lib.sh.
#
#   office-host --- office-gw --- nat --- internet --- cloud-gw --- cloud-host
#    10.1.0.2     .1       192.168.50.2 .1   (MTU 1500)   203.0.113.7   10.2.0.2
#                              198.51.100.4 is the office's public address; the NAT hides the gateway behind it
office_and_cloud() {
    make_ns office-host office-gw nat internet cloud-gw cloud-host
    join office-host eth0 10.1.0.2/24      office-gw  lan0 10.1.0.1/24
    join office-gw   wan0 192.168.50.2/24  nat        lan0 192.168.50.1/24
    join nat         wan0 198.51.100.4/24  internet   isp0 198.51.100.1/24
    join internet    isp1 203.0.113.1/24   cloud-gw   wan0 203.0.113.7/24
    join cloud-gw    lan0 10.2.0.1/24      cloud-host eth0 10.2.0.2/24
    ns office-host ip route add default via 10.1.0.1
    ns office-gw   ip route add default via 192.168.50.1
    ns nat         ip route add default via 198.51.100.1
    ns cloud-gw    ip route add default via 203.0.113.1
    ns cloud-host  ip route add default via 10.2.0.1
    local n
    for n in office-gw nat internet cloud-gw; do ns "$n" sysctl -qw net.ipv4.ip_forward=1; done
    # The office's provider: everybody leaves with the public address and a changed port.
    ns nat nft -f - <<'NFT'
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "wan0" masquerade random
    }
}
NFT
}
