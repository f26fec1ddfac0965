"""What is measured of a contestant. Each load ends by itself and is ended if it does not."""
import json, re, subprocess, time

import network
from network import HOST, Account, inside, quiet


def iperf(seconds, *options):
    """Mbit/s, GB and retransmissions of one way, and Mbit/s of the other if it is both."""
    command = inside("ha", "iperf3", "-c", HOST["b"], "-t", seconds, "-C", "cubic", "-J", *options)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds + 20)
    result = json.loads(done.stdout)
    if "error" in result:
        raise RuntimeError(result["error"])
    end = result["end"]
    back = end.get("sum_received_bidir_reverse", {}).get("bits_per_second", 0) / 1e6
    back_gb = end.get("sum_received_bidir_reverse", {}).get("bytes", 0) / 1e9
    received = end["sum_received"]
    return received["bits_per_second"] / 1e6, received["bytes"] / 1e9 + back_gb, end["sum_sent"].get("retransmits", 0), back


def ping(count, interval):
    command = inside("ha", "ping", "-n", "-i", interval, "-c", count, "-w", 10, HOST["b"])
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
    times = sorted(float(word) for word in re.findall(r"time=([\d.]+) ms", done.stdout))
    if not times:
        raise RuntimeError("no reply to ping")
    return times[len(times) // 2] * 1e3, times[min(len(times) - 1, int(len(times) * 0.99))] * 1e3, 100 * (1 - len(times) / count)


class Measurement:
    """Everything of one contestant in one round; `emit(metric, value)` takes the figures."""

    def __init__(self, contestant, options, emit):
        self.contestant, self.options, self.emit = contestant, options, emit

    def attempt(self, what, measure):
        try:
            measure()
        except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.emit("error", f"{what}: {str(error).strip()[:200]}".replace("\n", " ").replace("\t", " "))

    def run(self):
        started, first = self.contestant.up(self.options)
        self.emit("start_ms", started * 1e3)
        self.emit("handshake_ms", first * 1e3)
        wanted = self.contestant.measures
        if wanted == "handshake":
            return
        server = network.start("hb", "/dev/null", "iperf3", "-s")
        network.wait_for("iperf3 listens", lambda: ":5201" in network.run(*inside("hb", "ss", "-ltnH")))
        try:
            self.load(wanted)
        finally:
            server.terminate()
            server.wait(timeout=5)

    def load(self, wanted):
        seconds, short = self.options.seconds, max(2, (self.options.seconds + 1) // 2)
        if wanted == "scale":
            self.attempt("tcp1", lambda: self.tcp("tcp1", seconds))
            self.emit("rss_mb", network.gateways_memory())
            return
        if wanted == "pairs":
            self.attempt("tcp4", lambda: self.tcp("tcp4", seconds, "-P", "4"))
            self.attempt("rev4", lambda: self.tcp("rev4", short, "-R", "-P", "4"))
            self.emit("rss_mb", network.gateways_memory())
            return
        self.attempt("ping", self.idle)
        self.attempt("tcp1", lambda: self.tcp("tcp1", seconds))
        self.attempt("tcp4", lambda: self.tcp("tcp4", seconds, "-P", "4"))
        self.emit("rss_mb", network.gateways_memory())
        self.attempt("rev1", lambda: self.tcp("rev1", short, "-R"))
        if self.options.quick:
            return
        self.attempt("rev4", lambda: self.tcp("rev4", short, "-R", "-P", "4"))
        self.attempt("bidir", lambda: self.tcp("bidir", short, "--bidir"))
        self.attempt("load", self.loaded)
        self.attempt("udp1300", lambda: self.udp(1300))
        self.attempt("udp64", lambda: self.udp(64))

    def tcp(self, key, seconds, *options):
        best = None
        for _ in range(2):                      # once more if strangers took much of the machine
            quiet()
            with Account() as account:
                figures = iperf(seconds, *options)
            if best is None or account.noise < best[0].noise:
                best = account, figures
            if account.noise < 0.08:
                break
        account, (mbps, gigabytes, retransmissions, back) = best
        self.emit(f"{key}_mbps", mbps + back)
        self.emit(f"{key}_retransmissions", retransmissions)
        if gigabytes:
            self.emit(f"{key}_gateways_s_gb", account.gateways / gigabytes)
            self.emit(f"{key}_all_s_gb", account.ours / gigabytes)
        self.emit(f"{key}_noise_pct", account.noise * 100)

    def udp(self, size):
        quiet()
        command = [f"{self.options.bin}/udpgen", network.full("ha"), network.full("hb"), HOST["b"], "7777", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=40)
        figures = json.loads(done.stdout)
        self.emit(f"udp{size}_kpps", figures["pass_pps"] / 1e3)
        self.emit(f"udp{size}_flooded_kpps", figures["flood_rx_pps"] / 1e3)
        self.emit(f"udp{size}_offered_kpps", figures["flood_tx_pps"] / 1e3)

    def idle(self):
        quiet()
        p50, p99, lost = ping(1000, 0.001)
        self.emit("ping_p50_us", p50)
        self.emit("ping_p99_us", p99)
        self.emit("ping_lost_pct", lost)

    def loaded(self):
        quiet()
        command = inside("ha", "iperf3", "-c", HOST["b"], "-t", 4, "-C", "cubic", "-J")
        load = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            time.sleep(1)
            p50, p99, lost = ping(1000, 0.002)
            result = json.loads(load.communicate(timeout=20)[0])
        finally:
            if load.poll() is None:
                load.kill()
                load.wait()
        self.emit("load_p50_us", p50)
        self.emit("load_p99_us", p99)
        self.emit("load_lost_pct", lost)
        self.emit("load_mbps", result["end"]["sum_received"]["bits_per_second"] / 1e6)
