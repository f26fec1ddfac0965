# Shared by the scripts here; sourced, needs bash.
# Namespaces carry a name of this run ($LB_RUN), so that runs side by side don't meet; what a run started it ends by
# process id, also when interrupted.
set -euo pipefail
LB_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LB_RUN=${LB_RUN:-lb$$}
LB_TMP=
LB_NAMESPACES=()
LB_PIDS=()
export PATH=$PATH:/usr/sbin:/sbin

if [ -t 1 ]; then LB_BOLD=$'\e[1m' LB_DIM=$'\e[2m' LB_GREEN=$'\e[32m' LB_RED=$'\e[31m' LB_OFF=$'\e[0m'
else LB_BOLD='' LB_DIM='' LB_GREEN='' LB_RED='' LB_OFF=''; fi

step() { printf '\n%s== %s%s\n' "$LB_BOLD" "$*" "$LB_OFF"; }
good() { printf '   %sok%s  %s\n' "$LB_GREEN" "$LB_OFF" "$*"; }
say()  { printf '   %s\n' "$*"; }
fail() { printf '   %sFAILED%s  %s\n' "$LB_RED" "$LB_OFF" "$*" >&2; exit 1; }

need_root() {
    [ "$(id -u)" = 0 ] || { echo "$(basename "$0"): needs root for network namespaces and TUN: run it with sudo" >&2; exit 77; }
    # Under sudo, cargo and rustup live in the caller's home.
    if [ -n "${SUDO_USER:-}" ] && ! command -v cargo >/dev/null; then
        local home; home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        [ -x "$home/.cargo/bin/cargo" ] && export PATH=$PATH:$home/.cargo/bin
        [ -d "$home/.rustup" ] && export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
    fi
    command -v cargo >/dev/null || { echo "no cargo on PATH: install a Rust toolchain (https://rustup.rs) first" >&2; exit 1; }
}

# Debian and Ubuntu packages that are missing, by name.
need_packages() {
    local missing=() p
    for p; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p"); done
    [ ${#missing[@]} = 0 ] && return 0
    echo "installing: ${missing[*]}"
    local log; log=$(mktemp)
    if ! { apt-get -o DPkg::Lock::Timeout=300 -q update && DEBIAN_FRONTEND=noninteractive \
           apt-get -o DPkg::Lock::Timeout=300 -q install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2; rm -f "$log"; return 1
    fi
    rm -f "$log"
}

# ns NAME COMMAND...: in a namespace of this run.
ns() { local n=$1; shift; ip netns exec "$LB_RUN-$n" "$@"; }

make_ns() {
    local n
    for n; do
        ip netns add "$LB_RUN-$n"
        LB_NAMESPACES+=("$LB_RUN-$n")
        ns "$n" ip link set lo up
        ns "$n" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad' 2>/dev/null || :
    done
}

# join NS1 IF1 ADDR1 NS2 IF2 ADDR2: a cable between two namespaces.
join() {
    ip link add "$2" netns "$LB_RUN-$1" type veth peer name "$5" netns "$LB_RUN-$4"
    ns "$1" ip addr add "$3" dev "$2"; ns "$1" ip link set "$2" up
    ns "$4" ip addr add "$6" dev "$5"; ns "$4" ip link set "$5" up
}

# background NAME NS COMMAND...: started in a namespace, its output in $LB_TMP/NAME.log, its id in LB_PID_NAME.
background() {
    local name=$1 n=$2; shift 2
    ip netns exec "$LB_RUN-$n" "$@" >"$LB_TMP/$name.log" 2>&1 </dev/null &
    LB_PIDS+=($!)
    printf -v "LB_PID_$name" %s $!
}

end_pid() {
    local pid=$1 i
    kill "$pid" 2>/dev/null || return 0
    for i in $(seq 50); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || :
}

wait_until() {      # SECONDS COMMAND...
    local n=$(($1 * 20)); shift
    until "$@" >/dev/null 2>&1; do
        [ $((n--)) -gt 0 ] || return 1
        sleep 0.05
    done
}

clean_up() {
    local status=$? p n
    trap - EXIT INT TERM
    set +e
    for p in "${LB_PIDS[@]}"; do end_pid "$p"; done
    for n in "${LB_NAMESPACES[@]}"; do ip netns del "$n" 2>/dev/null; done
    [ -n "$LB_TMP" ] && rm -rf "$LB_TMP"
    exit "$status"
}

# Call before anything is started.
begin() {
    LB_TMP=$(mktemp -d -t landbridge.XXXXXX)
    trap clean_up EXIT
    trap 'exit 130' INT TERM
}
