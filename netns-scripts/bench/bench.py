#!/usr/bin/env python3
"""Rounds of all contestants on each wire; called by netns-scripts/bench.sh, which has built and installed what they need."""
import argparse, fcntl, os, signal, subprocess, sys, tempfile, time

import network, report
from contestants import ALL, QUICK, TOP
from measure import Measurement, iperf, ping


def chosen(options):
    names = options.only or (QUICK if options.quick else [contestant.name for contestant in ALL])
    known = {contestant.name: contestant for contestant in ALL}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"bench: no contestant {', '.join(unknown)}; there are: {' '.join(known)}")
    picked = []
    for name in names:
        why = known[name].missing(options)
        if why:
            print(f"left out: {name}: {why}", file=sys.stderr)
        else:
            picked.append(known[name])
    return picked


def about(options, picked):
    processor = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    lines = [f"{time.strftime('%Y-%m-%d %H:%M')}  {' '.join(os.uname()[i] for i in (0, 2, 4))}  {os.cpu_count()} processors, {processor}",
             f"rounds {options.rounds}, {options.seconds} s a stream, WIRE {' '.join(options.wires)}"]
    return "\n".join(lines + [f"{contestant.name}: {contestant.about}" for contestant in picked]) + "\n"


def rounds(options):
    picked = chosen(options)
    out = options.out or f"{TOP}/target/bench/{time.strftime('%Y%m%d-%H%M%S')}"
    os.makedirs(out, exist_ok=True)
    with open(f"{out}/about.txt", "a") as file:
        file.write(about(options, picked))
    with open(f"{out}/raw.tsv", "a") as raw:
        for number in range(options.first, options.first + options.rounds):
            for wire in options.wires:
                options.wire = wire
                shift = number % len(picked)                 # another order in each round
                for contestant in picked[shift:] + picked[:shift]:
                    one(options, contestant, number, wire, raw)
    report.write([out], out)
    print(out)


def one(options, contestant, number, wire, raw):
    def emit(metric, value):
        raw.write(f"{wire}\t{number}\t{contestant.name}\t{metric}\t{value}\n")
        raw.flush()
    began = time.monotonic()
    try:
        Measurement(contestant, options, emit).run()
    except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        emit("error", str(error).replace("\n", " ").replace("\t", " ")[:300])
        print(f"  {contestant.name}: {error}", file=sys.stderr)
    finally:
        contestant.down()
    print(f"WIRE={wire} round {number} {contestant.name}: {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.2f}", file=sys.stderr, flush=True)


def profile(options):
    """Where the time goes under one TCP stream: perf with the processors' clock (no hardware counters needed)."""
    picked, options.wire = chosen(options), options.wires[0]
    for contestant in picked:
        try:
            contestant.up(options)
            network.start("hb", "/dev/null", "iperf3", "-s")
            network.wait_for("iperf3 listens", lambda: ":5201" in network.run(*network.inside("hb", "ss", "-ltnH")))
            load = subprocess.Popen(network.inside("ha", "iperf3", "-c", network.HOST["b"], "-t", options.seconds + 3, "-J"),
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            time.sleep(1)
            with tempfile.NamedTemporaryFile() as data:
                network.run("perf", "record", "-q", "-a", "-g", "-F", 997, "-e", "cpu-clock", "-o", data.name, "--", "sleep", options.seconds)
                load.wait(timeout=options.seconds + 20)
                for title, keys, which in (("by process", "comm", []), ("by process and program", "comm,dso", []), ("by symbol", "comm,dso,symbol", []),
                                           ("by system call, with what it calls", "comm,symbol", ["--children"])):
                    which = which or ["--no-children"]
                    text = network.run("perf", "report", "-i", data.name, "--stdio", "-g", "none", "--percent-limit", "0.4", "--sort", keys, *which)
                    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
                    if "--children" in which:
                        lines = [line for line in lines if "_sys_" in line]
                    print(f"\n{contestant.name}, WIRE={options.wire}, {title}\n" + "\n".join(lines[:60]))
        finally:
            contestant.down()


def main():
    parser = argparse.ArgumentParser(prog="netns-scripts/bench.sh", description="Landbridge and its peers, measured side by side in network namespaces.")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (a goal wants 5)")
    parser.add_argument("--first", type=int, default=1, help="number of the first round, to go on in the folder of --out")
    parser.add_argument("--seconds", type=int, default=10, help="of a TCP stream")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer contestants, ping and TCP only")
    parser.add_argument("--wire", nargs="+", dest="wires", choices=["default", "nic", "plain"],
                        default=os.environ.get("WIRE", "default nic plain").split(), help="what the internet passes (also by WIRE=)")
    parser.add_argument("--wireguard-go", metavar="FILE", help="the newest wireguard-go's binary")
    parser.add_argument("--out", metavar="DIR", help="where the figures go; target/bench/TIME by default")
    parser.add_argument("--list", action="store_true", help="name the contestants")
    parser.add_argument("--table", nargs="+", metavar="DIR", help="print the tables of earlier runs again")
    parser.add_argument("--profile", action="store_true", help="where the time goes under one TCP stream (perf), in place of rounds")
    parser.add_argument("--bin", default=f"{TOP}/netns-scripts/.cache/bench/bin", help=argparse.SUPPRESS)
    parser.add_argument("--target", default=f"{os.environ.get('CARGO_TARGET_DIR', TOP + '/target')}/release", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        for contestant in ALL:
            print(f"{contestant.name:22} {contestant.about}")
        return
    if options.table:
        report.write(options.table, options.out or options.table[-1])
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    lock = open("/run/lock/landbridge-bench", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)                # two at a time would measure each other
    with tempfile.TemporaryDirectory(prefix="landbridge-bench.") as folder:
        options.run = folder
        try:
            (profile if options.profile else rounds)(options)
        finally:
            network.down()


if __name__ == "__main__":
    main()
