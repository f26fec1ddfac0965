"""Who is measured. Each knows how to start its two gateways; a figure is of both together."""
import json, os, shutil, socket, subprocess, time

import network
from network import LAN, WAN, FirstReply, full, inside, other, run, start, tun_up, wait_for

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PSK = "bench-only-not-secret"


class Contestant:
    """One program in one setting."""
    measures = "all"            # or "handshake", or "scale": one TCP stream and memory, or "pairs": four TCP streams

    def __init__(self, name, about):
        self.name, self.about = name, about

    def missing(self, options):
        """Why it can't be measured here, or nothing."""
        return None

    def up(self, options):
        """Builds the network, starts both ends. Seconds from A's start, and from its handshake's, to the first reply."""
        self.options, self.run = options, f"{options.run}/{self.name}"
        shutil.rmtree(self.run, ignore_errors=True)
        os.makedirs(self.run)
        network.up(options.wire)
        self.start("b")
        self.settle("b")
        began = time.monotonic()
        self.start("a")
        self.settle("a")
        first = FirstReply()
        first.start()
        first.ready.wait(5)
        self.connect()
        first.join()
        if first.seconds is None:
            raise RuntimeError(f"{self.name}: no reply through the tunnel ({first.error or 'see ' + self.run})")
        return first.began + first.seconds - began, first.seconds

    def start(self, side):
        raise NotImplementedError

    def settle(self, side):
        """Waits until the side is ready for a handshake."""

    def connect(self):
        """Begins the handshake from A; without one, the first packet does."""

    def down(self):
        network.down()

    def log(self, side, name="daemon"):
        return f"{self.run}/{name}.{side}.log"


class Plain(Contestant):
    def start(self, side):
        run("ip", "-n", full("g" + side), "route", "replace", LAN[other(side)], "via", WAN[other(side)])


class Piped(Contestant):
    """What takes no handshake: a program with an interface name and addresses."""

    def __init__(self, name, about, mtu, *command):
        super().__init__(name, about)
        self.mtu, self.command = mtu, command

    def start(self, side):
        words = {"bin": self.options.bin, "target": self.options.target, "local": WAN[side], "remote": WAN[other(side)],
                 "local_net": LAN[side], "remote_net": LAN[other(side)]}
        start("g" + side, self.log(side), *(word.format(**words) for word in self.command))
        wait_for("the TUN is there", lambda: network.has_device("g" + side, "tun0"))

    def settle(self, side):
        tun_up(side, "tun0", self.mtu)


class Landbridge(Contestant):
    def __init__(self, name, about, esp="aes256gcm16", ike="aes256gcm16-prfsha384-x25519", auth="psk", measures="all", tunnels=1, pairs=1):
        super().__init__(name, about)
        self.esp, self.ike, self.auth, self.measures, self.tunnels, self.pairs = esp, ike, auth, measures, tunnels, pairs

    def start(self, side):
        folder = f"{self.run}/{side}"
        os.makedirs(folder, exist_ok=True)
        with open(os.open(f"{folder}/peer.psk", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(PSK)
        program = f"{self.options.target}/landbridge"
        if self.auth == "pubkey":
            for name in "ab":
                if not os.path.exists(f"{self.run}/{name}.key"):
                    with open(f"{self.run}/{name}.pub", "w") as file:
                        file.write(run(program, "keygen", f"{self.run}/{name}.key"))
        with open(f"{folder}/landbridge.toml", "w") as file:
            file.write(f'[gateway]\nid = "{side}.example"\nlog_level = "warn"\n')
            for number in range(self.tunnels):
                file.write(self.connection(side, number))
        start("g" + side, self.log(side), program, "run", "--config", f"{folder}/landbridge.toml", "--socket", self.socket(side))

    def connection(self, side, number):
        name = "site" if number == 0 else f"t{number}"
        mine, theirs = (f"{end}{number or ''}.example" for end in (side, other(side)))
        nets = {end: LAN[end] if number == 0 else f"100.{dict(a=64, b=96)[end]}.{number >> 6}.{(number & 63) * 4}/30" for end in "ab"}
        if self.auth == "psk":
            local = remote = 'auth = "psk"\npsk_file = "peer.psk"\n'
        else:
            local = f'auth = "pubkey"\nprivate_key_file = "{self.run}/{side}.key"\n'
            remote = f'auth = "pubkey"\npublic_key_files = ["{self.run}/{other(side)}.pub"]\n'
        # All but the first come up by themselves; the first when its handshake is timed.
        action = "start" if number and side == "a" else "none"
        return (f'[connections.{name}]\nlocal_addrs = ["{WAN[side]}"]\nremote_addrs = ["{WAN[other(side)]}"]\n'
                f'proposals = ["{self.ike}"]\ninterface = "lb-{name}"\n'
                f'[connections.{name}.local]\nid = "{mine}"\n{local}[connections.{name}.remote]\nid = "{theirs}"\n{remote}'
                f'[connections.{name}.children.net]\nlocal_ts = ["{nets[side]}"]\nremote_ts = ["{nets[other(side)]}"]\n'
                f'esp_proposals = ["{self.esp}-x25519-esn"]\nstart_action = "{action}"\n' + (f"pairs = {self.pairs}\n" if self.pairs > 1 else ""))

    def socket(self, side):
        return f"{self.run}/{side}.sock"

    def ask(self, side, request):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(self.socket(side))
            sock.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(sock.makefile().readline())

    def settle(self, side):
        wait_for("the gateway serves", lambda: os.path.exists(self.socket(side)), 15 + self.tunnels / 10)
        self.ask(side, {"command": "status"})
        if side == "a" and self.tunnels > 1:
            def rest_is_up():
                status = self.ask("a", {"command": "status"})["status"]
                return sum(c["state"] == "up" for c in status["connections"]) >= self.tunnels - 1
            wait_for(f"{self.tunnels - 1} tunnels are up", rest_is_up, 30 + self.tunnels / 10)

    def connect(self):
        self.ask("a", {"command": "up", "connection": "site"})


class WireGuard(Contestant):
    """Any program that is a userspace WireGuard."""

    def __init__(self, name, about, program, *arguments):
        super().__init__(name, about)
        self.program, self.arguments = program, arguments

    def path(self, options):
        program = self.program.format(bin=options.bin, wireguard_go=options.wireguard_go or "")
        return shutil.which(program) if program else None

    def missing(self, options):
        if self.program == "{wireguard_go}" and not options.wireguard_go:
            return "no path given (--wireguard-go)"
        return None if self.path(options) and shutil.which("wg") else f"{self.program.format(bin=options.bin, wireguard_go='')} is not installed"

    def device(self, side):
        # The control sockets of /var/run/wireguard are the machine's: the name must be this run's own.
        return f"{network.RUN}{side}"

    def start(self, side):
        for name in "ab":
            if not os.path.exists(f"{self.run}/{name}.key"):
                key = run("wg", "genkey")
                with open(os.open(f"{self.run}/{name}.key", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
                    file.write(key)
                public = subprocess.run(["wg", "pubkey"], input=key, text=True, capture_output=True, check=True, timeout=10)
                with open(f"{self.run}/{name}.pub", "w") as file:
                    file.write(public.stdout)
        device, gateway = self.device(side), "g" + side
        start(gateway, self.log(side), self.path(self.options), *self.arguments, device)
        wait_for("the TUN is there", lambda: network.has_device(gateway, device))
        wait_for("its socket is there", lambda: os.path.exists(f"/var/run/wireguard/{device}.sock"))
        with open(f"{self.run}/{other(side)}.pub") as file:
            public = file.read().strip()
        run(*inside(gateway, "wg", "set", device, "listen-port", 51820, "private-key", f"{self.run}/{side}.key", "peer", public,
                    "endpoint", f"{WAN[other(side)]}:51820", "allowed-ips", "10.10.0.0/16"))
        tun_up(side, device, 1420)

    def down(self):
        super().down()
        for side in "ab":
            try:
                os.unlink(f"/var/run/wireguard/{self.device(side)}.sock")
            except OSError:
                pass


class OpenVpn(Contestant):
    def missing(self, options):
        return None if shutil.which("openvpn") else "openvpn is not installed"

    def start(self, side):
        for name in "ab":
            if not os.path.exists(f"{self.run}/{name}.crt"):
                run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 30,
                    "-subj", f"/CN={name}", "-keyout", f"{self.run}/{name}.pem", "-out", f"{self.run}/{name}.crt")
        print_of = run("openssl", "x509", "-in", f"{self.run}/{other(side)}.crt", "-noout", "-fingerprint", "-sha256")
        fingerprint = print_of.strip().split("=", 1)[1]
        role, own, peer = ("--tls-client", 2, 1) if side == "a" else ("--tls-server", 1, 2)
        start("g" + side, self.log(side), "openvpn", "--dev", "tun0", "--dev-type", "tun", "--proto", "udp", "--local", WAN[side],
              "--lport", 1194, "--remote", WAN[other(side)], 1194, role, "--dh", "none", "--cert", f"{self.run}/{side}.crt",
              "--key", f"{self.run}/{side}.pem", "--peer-fingerprint", fingerprint, "--data-ciphers", "AES-256-GCM", "--disable-dco",
              "--fast-io", "--tun-mtu", 1420, "--mssfix", 0, "--txqueuelen", 1000, "--sndbuf", 4194304, "--rcvbuf", 4194304,
              "--ifconfig", f"10.99.0.{own}", f"10.99.0.{peer}", "--route", LAN[other(side)].split("/")[0], "255.255.255.0", "--verb", 3)

    def settle(self, side):
        wait_for("the TUN is there", lambda: network.has_device("g" + side, "tun0"))


class StrongSwan(Contestant):
    """With its userspace ESP (kernel-libipsec), by the scripts of the interop tests: unpacked, not installed."""

    def __init__(self, name, about, esp):
        super().__init__(name, about)
        self.esp, self.states = esp, {}

    def script(self, *words):
        return run(f"{TOP}/netns-scripts/peers/ns-host", *words)

    def missing(self, options):
        done = os.path.exists(f"{TOP}/netns-scripts/.cache/root-strongswan/.complete")
        return None if done else "netns-scripts/peers/fetch strongswan has not run"

    def peer(self, side, *words):
        return self.script("exec", self.states[side], "/um-src/peers/strongswan", *words)

    def start(self, side):
        # Not run(): the holder of the namespace lives on with our pipe.
        state = f"{self.run}/{side}"
        command = [f"{TOP}/netns-scripts/peers/ns-host", "start", "--netns", full("g" + side), "--root", "strongswan", "--state", state]
        subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, UM_CACHE=f"{TOP}/netns-scripts/.cache"))
        self.states[side] = state
        log = open(self.log(side), "ab")
        words = [f"LOCAL={WAN[side]}", f"REMOTE={WAN[other(side)]}", f"LOCAL_ID={side}.example", f"REMOTE_ID={other(side)}.example",
                 f"LOCAL_TS={LAN[side]}", f"REMOTE_TS={LAN[other(side)]}", "IKE=aes256gcm16-prfsha384-x25519", f"ESP={self.esp}",
                 f"PSK={PSK}", "KERNEL=libipsec", "ENCAP=yes", "REPLAY_WINDOW=4096"]
        command = [f"{TOP}/netns-scripts/peers/ns-host", "exec", state, "/um-src/peers/strongswan", "start", *words]
        subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def connect(self):
        log = open(self.log("a", "initiate"), "ab")
        command = [f"{TOP}/netns-scripts/peers/ns-host", "exec", self.states["a"], "/um-src/peers/strongswan", "initiate"]
        subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def down(self):
        for state in self.states.values():
            subprocess.run([f"{TOP}/netns-scripts/peers/ns-host", "stop", state], timeout=30, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.states = {}
        super().down()


CEILING = ("{target}/examples/ceiling", "tun0", "{local}", "{remote}", "{local_net}", "{remote_net}")

ALL = [
    Plain("plain", "plain routing, no tunnel"),
    Piped("tunlimit", "super-packets through a TUN, nothing sealed, one thread (tunpipe.c)", 1420, "{bin}/tunpipe", "tun0", "{local}", "{remote}", "4000"),
    Piped("ceiling", "Landbridge's data path with a cipher that does nothing", 1438, *CEILING, "none"),
    Landbridge("landbridge-aes256gcm", "Landbridge, AES-256-GCM"),
    Landbridge("landbridge-aes128gcm", "Landbridge, AES-128-GCM", esp="aes128gcm16"),
    Landbridge("landbridge-chacha20", "Landbridge, ChaCha20-Poly1305", esp="chacha20poly1305"),
    Landbridge("landbridge-aes256cbc", "Landbridge, AES-256-CBC with HMAC-SHA2-256", esp="aes256-sha256"),
    Landbridge("landbridge-2-pairs", "Landbridge, AES-256-GCM, 2 SA pairs (RFC 9611): 4 streams", measures="pairs", pairs=2),
    Landbridge("landbridge-4-pairs", "Landbridge, AES-256-GCM, 4 SA pairs (RFC 9611): 4 streams", measures="pairs", pairs=4),
    Landbridge("landbridge-ed25519", "Landbridge, raw Ed25519 keys: handshake only", auth="pubkey", measures="handshake"),
    Landbridge("landbridge-mlkem", "Landbridge, x25519 and mlkem768: handshake only", ike="aes256gcm16-prfsha384-x25519-ke1_mlkem768", measures="handshake"),
    Landbridge("landbridge-100", "Landbridge, AES-256-GCM, 100 tunnels up", measures="scale", tunnels=100),
    Landbridge("landbridge-1000", "Landbridge, AES-256-GCM, 1,000 tunnels up", measures="scale", tunnels=1000),
    WireGuard("wireguard-go", "wireguard-go, the newest, by --wireguard-go", "{wireguard_go}", "-f"),
    WireGuard("wireguard-go-debian", "wireguard-go of the distribution", "wireguard-go", "-f"),
    WireGuard("boringtun", "boringtun-cli", "{bin}/boringtun-cli", "-f", "--disable-drop-privileges"),
    WireGuard("gotatun", "gotatun-cli", "{bin}/gotatun", "-f", "--disable-drop-privileges"),
    OpenVpn("openvpn", "OpenVPN, AES-256-GCM over UDP, without the kernel's data channel"),
    StrongSwan("strongswan-aes256gcm", "strongSwan kernel-libipsec, AES-256-GCM", "aes256gcm16"),
    StrongSwan("strongswan-chacha20", "strongSwan kernel-libipsec, ChaCha20-Poly1305", "chacha20poly1305"),
]
QUICK = ["plain", "tunlimit", "ceiling", "landbridge-aes256gcm", "landbridge-chacha20", "wireguard-go", "wireguard-go-debian", "strongswan-aes256gcm"]
# Other people's tunnels: "the best peer" is one of these.
PEERS = ["wireguard-go", "wireguard-go-debian", "boringtun", "gotatun", "openvpn", "strongswan-aes256gcm", "strongswan-chacha20"]
