#!/usr/bin/env bash
# Landbridge as a service under a real systemd: a Debian (or Ubuntu) tree made by debootstrap, booted by
# systemd-nspawn as the office gateway of the demo's network. Install, start, tunnel up, restart, kill -9, stop.
#
#   sudo netns-scripts/systemd.sh          (after cargo build --release)
. "$(dirname "$0")/lib.sh"
. "$LB_TOP/netns-scripts/topology.sh"
need_root
need_packages iproute2 iputils-ping nftables procps python3 systemd-container debootstrap debian-archive-keyring
LB=${CARGO_TARGET_DIR:-$LB_TOP/target}/release/landbridge
. /etc/os-release
CACHE=$LB_TOP/netns-scripts/.cache
TREE=$CACHE/tree-$VERSION_CODENAME
if [ ! -e "$TREE/.complete" ]; then
    step "Making a $VERSION_CODENAME tree (once)"
    mkdir -p "$CACHE"; rm -rf "$TREE"
    # From where this machine gets its packages.
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
             awk -v c="$VERSION_CODENAME" '$2 == c {print $1; exit}')
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 "$VERSION_CODENAME" "$TREE" $mirror \
        >"$CACHE/debootstrap.log" 2>&1 || { tail "$CACHE/debootstrap.log" >&2; fail debootstrap; }
    touch "$TREE/.complete"
fi
begin
office_and_cloud

# "Install" into a copy-on-write layer over the tree: what README tells an operator to do.
mkdir -p "$LB_TMP"/{cloud,etc}
for side in office cloud; do cp "$LB_TOP/configs/$side.toml" "$LB_TMP/$side.toml"; done
mv "$LB_TMP/office.toml" "$LB_TMP/etc/landbridge.toml"; mv "$LB_TMP/cloud.toml" "$LB_TMP/cloud/landbridge.toml"
"$LB" keygen --psk "$LB_TMP/etc/office-cloud.psk" >/dev/null
cp -p "$LB_TMP/etc/office-cloud.psk" "$LB_TMP/cloud/"

step "Booting systemd as the office gateway"
systemd-nspawn --quiet --directory="$TREE" --volatile=overlay --boot --machine="$LB_RUN" --register=no --keep-unit \
    --settings=no --console=pipe --network-namespace-path="/run/netns/$LB_RUN-office-gw" --capability=CAP_NET_ADMIN \
    --bind=/dev/net/tun --bind-ro="$LB:/usr/bin/landbridge" --bind="$LB_TMP/etc:/etc/landbridge" \
    --bind-ro="$LB_TOP/configs/landbridge.service:/etc/systemd/system/landbridge.service" \
    >"$LB_TMP/boot.log" 2>&1 </dev/null &
NSPAWN=$!
LB_PIDS+=("$NSPAWN")
# Not the process that makes the container ready, which is nspawn's child as well, for a moment.
leader() { pgrep -P "$NSPAWN" -x systemd | head -1 | grep .; }
wait_until 10 leader || { cat "$LB_TMP/boot.log" >&2; fail "no container"; }
LEADER=$(leader)
inside() { nsenter -t "$LEADER" --all -- env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
booted() {
    local state
    state=$(inside systemctl is-system-running 2>/dev/null) || :
    [[ $state = running || $state = degraded ]]
}
wait_until 30 booted || { cat "$LB_TMP/boot.log" >&2; fail "systemd did not come up"; }
good "$(inside systemctl --version | head -1)"

background cloud cloud-gw "$LB" run --config "$LB_TMP/cloud/landbridge.toml" --socket "$LB_TMP/cloud.sock"
journal() { inside journalctl -u landbridge --no-pager -n 60 >&2; inside systemctl status landbridge --no-pager >&2 || :; cat "$LB_TMP/cloud.log" >&2; }
ping_through() { ns office-host ping -q -c 1 -W 1 10.2.0.2; }
must() { local what=$1; shift; wait_until 20 "$@" || { journal; fail "$what"; }; good "$what"; }
main_pid() { inside systemctl show -P MainPID landbridge; }

step "systemctl enable --now landbridge"
inside systemctl enable --now landbridge >/dev/null 2>&1 || { journal; fail "the service did not start"; }
must "the service is active (Type=notify: it said READY itself)" inside systemctl is-active landbridge
must "the tunnel is up: ping through it" ping_through
[ "$(inside systemctl show -P WatchdogUSec landbridge)" != infinity ] || fail "no watchdog"
caps=$(awk '/^CapBnd/ {print $2}' "/proc/$(pgrep -P "$LEADER" -x landbridge)/status")
[ "$((16#$caps))" = $((1 << 12 | 1 << 10)) ] || fail "capability bounding set is $caps"
good "watchdog on; capabilities: net_admin and net_bind_service, nothing else"

step "systemctl reload, restart"
before=$(main_pid)
inside systemctl reload landbridge || { journal; fail reload; }
[ "$(main_pid)" = "$before" ] || fail "reload started another process"
must "reload keeps the process and the tunnel" ping_through
inside systemctl restart landbridge || { journal; fail restart; }
must "after restart the tunnel is up again" ping_through

step "kill -9"
before=$(main_pid)
kill -9 "$(pgrep -P "$LEADER" -x landbridge)"
changed() { [ "$(main_pid)" != "$before" ] && [ "$(main_pid)" != 0 ]; }
must "systemd started it again" changed
must "the tunnel is up again" ping_through

step "systemctl stop"
inside systemctl stop landbridge || { journal; fail stop; }
wait_until 5 sh -c "! ip netns exec $LB_RUN-office-gw ip link show | grep -q lb-" || fail "an interface was left behind"
[ "$(inside systemctl show -P Result landbridge)" = success ] || { journal; fail "it did not stop cleanly"; }
good "stopped cleanly; interface and routes are gone"
inside systemd-analyze security --no-pager landbridge 2>/dev/null | tail -1 | sed 's/^[^0-9A-Za-z]*/   /' || :
inside systemctl poweroff 2>/dev/null || :
printf '\n%sDone.%s\n' "$LB_BOLD" "$LB_OFF"
