"""From the raw figures to tables, verdicts on the goals, and the chart."""
import collections, html, os, statistics

from contestants import ALL, PEERS

OURS = "landbridge-aes256gcm"
COLUMNS = [
    ("tcp1_mbps", "TCP 1", "%.0f"), ("tcp4_mbps", "TCP 4", "%.0f"), ("rev1_mbps", "rev 1", "%.0f"), ("rev4_mbps", "rev 4", "%.0f"),
    ("bidir_mbps", "both ways", "%.0f"), ("tcp1_gateways_s_gb", "CPU s/GB", "%.2f"), ("tcp1_all_s_gb", "all s/GB", "%.2f"),
    ("udp1300_kpps", "UDP1300 kpps", "%.0f"), ("udp64_kpps", "UDP64 kpps", "%.0f"), ("ping_p50_us", "ping p50 us", "%.0f"),
    ("ping_p99_us", "p99", "%.0f"), ("load_p50_us", "load p50", "%.0f"), ("load_p99_us", "p99", "%.0f"), ("rss_mb", "RSS MiB", "%.1f"),
    ("handshake_ms", "first reply ms", "%.1f"), ("tcp1_spread", "TCP 1 min-max", "%s"), ("tcp1_noise_pct", "noise %", "%.1f"), ("rounds", "n", "%d"),
]


class Figures:
    """value[wire][contestant][metric][round]"""

    def __init__(self, folders):
        self.value = collections.defaultdict(lambda: collections.defaultdict(lambda: collections.defaultdict(dict)))
        self.errors, self.order = [], [contestant.name for contestant in ALL]
        for folder in folders:
            with open(os.path.join(folder, "raw.tsv")) as file:
                for line in file:
                    wire, number, name, metric, value = line.rstrip("\n").split("\t")
                    if metric == "error":
                        self.errors.append(f"WIRE={wire} round {number} {name}: {value}")
                    else:
                        self.value[wire][name][metric][f"{folder}/{number}"] = float(value)

    def wires(self):
        return [wire for wire in ("default", "nic", "plain") if wire in self.value]

    def median(self, wire, name, metric):
        values = self.value[wire].get(name, {}).get(metric, {})
        return statistics.median(values.values()) if values else None

    def ratio(self, wire, over, under):
        """Median over the rounds of a ratio within each; each side is (contestant, metric), or several of which the largest counts."""
        sides = []
        for side in (over, under):
            rounds = collections.defaultdict(list)
            for name, metric in side if isinstance(side, list) else [side]:
                for number, value in self.value[wire].get(name, {}).get(metric, {}).items():
                    rounds[number].append(value)
            sides.append({number: max(values) for number, values in rounds.items()})
        common = [number for number in sides[0] if sides[1].get(number)]
        if not common:
            return None, 0
        return statistics.median(sides[0][number] / sides[1][number] for number in common), len(common)

    def best(self, wire, metric, pick=min):
        values = [value for name in PEERS if (value := self.median(wire, name, metric)) is not None]
        return pick(values) if values else None


def goals(figures):
    """Rows: wire, what, goal, measured, verdict, rounds."""
    rows = []

    def row(wire, what, goal, measured, met, rounds, text="%.2f"):
        verdict = "not measured" if measured is None else "met" if met else "MISSED"
        if measured is not None and "wireguard-go-debian" in goal:
            verdict = "not judged: the goal means the newest (--wireguard-go)"
        elif measured is not None and rounds < 5:
            verdict += f" ({rounds} of 5 rounds)"
        rows.append((wire, what, goal, "-" if measured is None else text % measured, verdict))

    def at_least(wire, what, over, under, factor, versus):
        measured, rounds = figures.ratio(wire, over, under)
        row(wire, what, f">= {factor} x {versus}", measured, measured is not None and measured >= factor, rounds)

    def at_most(wire, what, limit, name, metric, unit, versus=""):
        measured, rounds = figures.median(wire, name, metric), len(figures.value[wire].get(name, {}).get(metric, {}))
        goal = "<= the best peer's" if limit is None else f"<= {limit:.0f} {unit}{versus}"
        met = measured is not None and limit is not None and measured <= limit
        row(wire, what, goal, None if limit is None else measured, met, rounds, "%.1f " + unit)

    newest = lambda wire: "wireguard-go" if figures.value[wire].get("wireguard-go") else "wireguard-go-debian"
    streams = [("tcp1", "TCP, 1 stream"), ("tcp4", "TCP, 4 streams"), ("rev1", "TCP, 1 stream, reverse"), ("rev4", "TCP, 4 streams, reverse")]
    for wire, against, factor, share in (("default", None, 5, 0.9), ("nic", None, 2.5, 0.85), ("plain", "the best peer", 4, 0.85)):
        if wire not in figures.wires():
            continue
        for key, what in streams:
            metric = f"{key}_mbps"
            under = [(name, metric) for name in PEERS] if against else (newest(wire), metric)
            at_least(wire, f"{what}, AES-256-GCM", (OURS, metric), under, factor, against or newest(wire))
            at_least(wire, f"{what}, AES-256-GCM", (OURS, metric), ("tunlimit", metric), share, "tunlimit")
    wire = "default"
    if wire in figures.wires():
        wg = newest(wire)
        at_least(wire, "TCP, 1 stream, ChaCha20-Poly1305", ("landbridge-chacha20", "tcp1_mbps"), (wg, "tcp1_mbps"), 2.5, wg)
        at_least(wire, "TCP, 1 stream, AES-256-GCM", (OURS, "tcp1_mbps"), ("strongswan-aes256gcm", "tcp1_mbps"), 20, "strongSwan")
        at_least(wire, "TCP, 1 stream, ChaCha20-Poly1305", ("landbridge-chacha20", "tcp1_mbps"), ("strongswan-chacha20", "tcp1_mbps"), 20, "strongSwan")
        at_least(wire, "UDP, 1300 octets, < 0.5 % lost", (OURS, "udp1300_kpps"), ("tunlimit", "udp1300_kpps"), 0.9, "tunlimit")
        at_least(wire, "UDP, 64 octets, < 0.5 % lost", (OURS, "udp64_kpps"), ("tunlimit", "udp64_kpps"), 0.8, "tunlimit")
        for metric, what in (("ping_p50_us", "ping p50, idle"), ("ping_p99_us", "ping p99, idle"), ("load_p99_us", "ping p99 under one TCP stream")):
            best = figures.best(wire, metric)
            at_most(wire, what, best, OURS, metric, "us", " (the best peer)")
        measured, rounds = figures.ratio(wire, (OURS, "tcp1_gateways_s_gb"), (wg, "tcp1_gateways_s_gb"))
        row(wire, "CPU of both gateways a GB", f"<= 0.2 x {wg}", measured, measured is not None and measured <= 0.2, rounds)
        at_most(wire, "memory, one tunnel under load", 24, OURS, "rss_mb", "MiB")
        at_most(wire, "memory, 1,000 tunnels", 128, "landbridge-1000", "rss_mb", "MiB")
        for name, limit, what in ((OURS, 10, "PSK"), ("landbridge-ed25519", 12, "Ed25519"), ("landbridge-mlkem", 15, "x25519 and mlkem768")):
            at_most(wire, f"handshake to first reply, {what}", limit, name, "handshake_ms", "ms")
        at_least(wire, "TCP both ways at once", (OURS, "bidir_mbps"), (OURS, "tcp1_mbps"), 1.2, "one way")
        for pairs in (2, 4):
            for key, way in (("tcp4", ""), ("rev4", ", reverse")):
                metric = f"{key}_mbps"
                at_least(wire, f"{pairs} SA pairs of RFC 9611, 4 streams{way}", (f"landbridge-{pairs}-pairs", metric), (OURS, metric), 1, "one pair")
        for tunnels in (100, 1000):
            name = f"landbridge-{tunnels}"
            measured, rounds = figures.ratio(wire, (name, "tcp1_mbps"), (OURS, "tcp1_mbps"))
            row(wire, f"TCP, 1 stream, with {tunnels} tunnels", "within 10 % of one", measured, measured is not None and measured >= 0.9, rounds)
    return rows


def markdown(head, rows):
    widths = [max(len(str(line[i])) for line in [head, *rows]) for i in range(len(head))]
    line = lambda cells: "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)) + " |"
    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def contestants_table(figures, wire):
    rows = []
    for name in figures.order:
        metrics = figures.value[wire].get(name)
        if not metrics:
            continue
        cells = {metric: figures.median(wire, name, metric) for metric in metrics}
        tcp = metrics.get("tcp1_mbps", {})
        if tcp:
            cells["tcp1_spread"] = f"{min(tcp.values()):.0f}-{max(tcp.values()):.0f}"
        cells["rounds"] = max(map(len, metrics.values()))
        rows.append([name] + [text % cells[metric] if metric in cells else "-" for metric, _, text in COLUMNS])
    return ["contestant"] + [head for _, head, _ in COLUMNS], rows


def chart(figures):
    """One group of bars a wire: Mbit/s of one TCP stream, median, with the range of the rounds."""
    bars = []
    for wire in figures.wires():
        found = [(name, figures.value[wire][name].get("tcp1_mbps", {})) for name in figures.order if name in figures.value[wire] and name != "plain"]
        found = [(name, statistics.median(v.values()), min(v.values()), max(v.values())) for name, v in found if v]
        bars.append((wire, sorted(found, key=lambda bar: -bar[1])))
    most = max((bar[3] for _, group in bars for bar in group), default=1.0)
    left, width, step, y, out = 190, 520, 20, 30, []
    for wire, group in bars:
        out.append(f'<text x="8" y="{y}" class="h">WIRE={html.escape(wire)}: one TCP stream, Mbit/s</text>')
        y += 10
        for name, middle, low, high in group:
            colour = "#2b6cb0" if name.startswith("landbridge") else "#a0aec0" if name in ("tunlimit", "ceiling") else "#718096"
            scale = width / most
            out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>'
                       f'<rect x="{left}" y="{y + 2}" width="{middle * scale:.1f}" height="{step - 6}" fill="{colour}"/>'
                       f'<line x1="{left + low * scale:.1f}" x2="{left + high * scale:.1f}" y1="{y + step / 2 - 1}" y2="{y + step / 2 - 1}" stroke="#1a202c"/>'
                       f'<text x="{left + high * scale + 6:.1f}" y="{y + 13}">{middle:.0f}</text>')
            y += step
        y += 28
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" height="{y}" font-family="sans-serif" font-size="12">'
            '<style>.h{font-weight:bold}</style><rect width="100%" height="100%" fill="white"/>' + "".join(out) + "</svg>\n")


def write(folders, out):
    figures = Figures(folders)
    parts, tsv = [], []
    for wire in figures.wires():
        head, rows = contestants_table(figures, wire)
        parts.append(f"WIRE={wire}, medians (Mbit/s, CPU seconds of both gateways and of all, thousand packets a second)\n\n" + markdown(head, rows))
        tsv += ["\t".join(["wire", "contestant", *(metric for metric, _, _ in COLUMNS)])] if not tsv else []
        tsv += ["\t".join([wire, *row]) for row in rows]
    table = goals(figures)
    parts.append("Goals\n\n" + markdown(["wire", "measure", "goal", "measured", "verdict"], table))
    if figures.errors:
        parts.append("Errors\n\n" + "\n".join(figures.errors))
    text = "\n\n".join(parts) + "\n"
    for name, content in (("summary.md", text), ("summary.tsv", "\n".join(tsv) + "\n"), ("chart.svg", chart(figures)),
                          ("goals.tsv", "\n".join("\t".join(row) for row in table) + "\n")):
        with open(os.path.join(out, name), "w") as file:
            file.write(content)
    print(text)
