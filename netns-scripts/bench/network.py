"""Namespaces of one run, what runs in them, and what it costs.

    ha --lan-- ga --wan ("internet", MTU 1500)-- gb --lan-- hb
    10.10.1.2  .1 192.0.2.1               192.0.2.2  10.10.2.1 .2

Names begin with the process id of this run, so runs side by side do not meet. What was started is ended by its process
id: the processes of the gateways' namespaces, which are ours alone.
"""
import ctypes, os, re, select, signal, socket, struct, subprocess, threading, time

RUN = f"lbb{os.getpid()}"
SIDES = ("ha", "ga", "gb", "hb")
HOST = {"a": "10.10.1.2", "b": "10.10.2.2"}
LAN = {"a": "10.10.1.0/24", "b": "10.10.2.0/24"}
WAN = {"a": "192.0.2.1", "b": "192.0.2.2"}
TICKS = os.sysconf("SC_CLK_TCK")
CLONE_NEWNET = 0x40000000


def other(side):
    return "b" if side == "a" else "a"


def full(ns):
    return f"{RUN}-{ns}"


def inside(ns, *command):
    return ["ip", "netns", "exec", full(ns), *map(str, command)]


def run(*command, **options):
    """A command that must succeed; its output."""
    options.setdefault("timeout", 60)
    done = subprocess.run([str(c) for c in command], text=True, stdin=subprocess.DEVNULL, capture_output=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def processes(ns):
    if not os.path.exists("/run/netns/" + full(ns)):
        return []
    return [int(word) for word in run("ip", "netns", "pids", full(ns)).split()]


def end_processes(ns):
    for sign, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 1.0)):
        pids = processes(ns)
        for pid in pids:
            try:
                os.kill(pid, sign)
            except ProcessLookupError:
                pass
        end = time.monotonic() + patience
        while pids and time.monotonic() < end:
            time.sleep(0.05)
            reap()
            pids = processes(ns)
        if not pids:
            return


STARTED = []


def reap():
    for child in STARTED:
        child.poll()
    STARTED[:] = [child for child in STARTED if child.returncode is None]


def start(ns, log, *command, env=None):
    """Starts a program in a namespace, its output in a file."""
    with open(log, "ab") as file:
        child = subprocess.Popen(inside(ns, *command), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                 env=dict(os.environ, **(env or {})), start_new_session=True)
    STARTED.append(child)
    return child


def wait_for(what, condition, patience=15.0):
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {patience:.0f} s: {what}")
        time.sleep(0.02)


def has_device(ns, device):
    return subprocess.run(["ip", "-n", full(ns), "link", "show", device], capture_output=True).returncode == 0


def down():
    for ns in SIDES:
        if os.path.exists("/run/netns/" + full(ns)):
            end_processes(ns)
            subprocess.run(["ip", "netns", "del", full(ns)], capture_output=True)
    reap()


def up(wire):
    down()
    for ns in SIDES:
        run("ip", "netns", "add", full(ns))
        run("ip", "-n", full(ns), "link", "set", "lo", "up")
        run(*inside(ns, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
                    "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1",
                    f"net.ipv4.ip_forward={int(ns in ('ga', 'gb'))}"))
    for one, name, address, two, address2 in (("ha", "lan", "10.10.1.2/24", "ga", "10.10.1.1/24"),
                                              ("ga", "wan", "192.0.2.1/24", "gb", "192.0.2.2/24"),
                                              ("gb", "lan", "10.10.2.1/24", "hb", "10.10.2.2/24")):
        run("ip", "link", "add", name, "netns", full(one), "mtu", 1500, "type", "veth", "peer", "name", name, "netns", full(two), "mtu", 1500)
        for ns, own in ((one, address), (two, address2)):
            run("ip", "-n", full(ns), "addr", "add", own, "dev", name)
            run("ip", "-n", full(ns), "link", "set", name, "up")
    run("ip", "-n", full("ha"), "route", "add", "default", "via", "10.10.1.1")
    run("ip", "-n", full("hb"), "route", "add", "default", "via", "10.10.2.1")
    if wire != "default":
        for ns in ("ga", "gb"):
            run(*inside(ns, "ethtool", "-K", "wan", "tso", "off", "gso", "off", "tx-udp-segmentation", "off",
                        "gro", "on" if wire == "nic" else "off"))


def tun_up(side, device, mtu=None):
    gateway = "g" + side
    if mtu:
        run("ip", "-n", full(gateway), "link", "set", device, "mtu", mtu)
    run("ip", "-n", full(gateway), "link", "set", device, "up")
    run("ip", "-n", full(gateway), "route", "replace", LAN[other(side)], "dev", device)


# ---- what it costs

def cpu_of(pid, with_children=False):
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return sum(int(field) for field in fields[11:15 if with_children else 13]) / TICKS
    except (OSError, IndexError):
        return 0.0


def gateways_cpu():
    return sum(cpu_of(pid) for ns in ("ga", "gb") for pid in processes(ns))


def gateways_memory():
    """MiB resident, one gateway."""
    kib = 0
    for ns in ("ga", "gb"):
        for pid in processes(ns):
            try:
                with open(f"/proc/{pid}/status") as file:
                    found = re.search(r"VmRSS:\s+(\d+)", file.read())
                kib += int(found.group(1)) if found else 0
            except OSError:
                pass
    return kib / 1024 / 2


def machine_cpu():
    """Busy and stolen seconds of all processors."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICKS, fields[7] / TICKS


def our_cpu():
    """Of all that a measurement causes: the processes in the namespaces, this one with its children, kernel threads."""
    inodes = {os.stat("/run/netns/" + full(ns)).st_ino for ns in SIDES if os.path.exists("/run/netns/" + full(ns))}
    total = 0.0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) == os.getpid() or os.stat(f"/proc/{pid}/ns/net").st_ino in inodes:
                total += cpu_of(pid, True)
            else:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if not file.read(1):
                        total += cpu_of(pid)
        except OSError:
            pass
    return total


class Account:
    """CPU seconds over a `with` block: of the gateways, of all that is ours, and the share that strangers took."""

    def __enter__(self):
        self.gateways, self.ours, (self.busy, self.stolen) = gateways_cpu(), our_cpu(), machine_cpu()
        self.begin = time.monotonic()
        return self

    def __exit__(self, *_):
        self.wall = time.monotonic() - self.begin
        busy, stolen = machine_cpu()
        self.gateways, self.ours = gateways_cpu() - self.gateways, our_cpu() - self.ours
        strangers = max(0.0, busy - self.busy - self.ours + stolen - self.stolen)
        self.noise = strangers / (os.cpu_count() * self.wall)


def quiet(patience=3.0):
    """Waits, not for ever, until strangers take less than a tenth of the machine."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        ours, busy, begin = our_cpu(), machine_cpu()[0], time.monotonic()
        time.sleep(0.4)
        strangers = machine_cpu()[0] - busy - (our_cpu() - ours)
        if strangers < 0.1 * os.cpu_count() * (time.monotonic() - begin):
            return


# ---- the first reply

class FirstReply(threading.Thread):
    """Asks every millisecond, from host A, for an ICMP echo of host B; knows when the first came."""

    def __init__(self, patience=20.0):
        super().__init__(daemon=True)
        self.patience, self.began, self.seconds, self.error = patience, None, None, None
        self.ready = threading.Event()

    def run(self):
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open("/run/netns/" + full("ha")) as ns:
                # Only this thread moves.
                if libc.setns(ns.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
                self.ask(sock)
        except OSError as error:
            self.error = error
            self.ready.set()

    def ask(self, sock):
        ident = os.getpid() & 0xffff
        self.began = time.monotonic()
        self.ready.set()
        sequence = 0
        while time.monotonic() < self.began + self.patience:
            header = struct.pack("!BBHHH", 8, 0, 0, ident, sequence & 0xffff)
            total = sum(struct.unpack("!4H", header))
            total = (total & 0xffff) + (total >> 16)
            try:
                sock.sendto(struct.pack("!BBHHH", 8, 0, ~total & 0xffff, ident, sequence & 0xffff), (HOST["b"], 0))
            except OSError:
                pass        # no route yet
            sequence += 1
            if select.select([sock], [], [], 0.001)[0]:
                try:
                    packet = sock.recv(2048)
                except OSError:
                    continue
                answer = packet[(packet[0] & 15) * 4:]
                if answer[:1] == b"\0" and struct.unpack("!H", answer[4:6])[0] == ident:
                    self.seconds = time.monotonic() - self.began
                    return
