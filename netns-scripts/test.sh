#!/usr/bin/env bash
# Everything that is tested: formatting, lints, documentation, unit and simulation tests, and, as root, the tests in
# network namespaces, against strongSwan, and under systemd. Installs what is missing.
#
#   sudo netns-scripts/test.sh            all of it
#   sudo netns-scripts/test.sh NAME...    only the stages named (see `stages` below)
. "$(dirname "$0")/lib.sh"
need_root
cd "$LB_TOP"
stages="format lint docs unit simulation netns interop systemd demo instructions"
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1
# A test that can't run here says so; under this script that is a failure, not a skip.
export LANDBRIDGE_TEST_STRICT=1
passed=0 failed=0 skipped=0 broken=() left_out=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

stage_format() { cargo fmt --all --check; }
stage_lint()   { cargo clippy --workspace --all-targets --quiet -- -D warnings; }
stage_docs()   { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet; }
# What needs no root: exactly what `cargo test` runs for anybody.
stage_unit()   { cargo test --workspace --lib --bins --quiet &&
                 cargo test -p landbridge-proto --doc --quiet && plain_tests; }
plain_tests() {
    local t names=()
    for t in tests/*.rs; do names+=(--test "$(basename "$t" .rs)"); done
    cargo test -p landbridge --quiet "${names[@]}" &&
    cargo test -p landbridge-proto --quiet --tests -- --skip sim_
}
stage_simulation() {
    LANDBRIDGE_SIM_SEEDS=${LANDBRIDGE_SIM_SEEDS:-1000} cargo test -p landbridge-proto --test sim -- --nocapture &&
    LANDBRIDGE_SEARCH_FAULTS=${LANDBRIDGE_SEARCH_FAULTS:-2} cargo test -p landbridge-proto --test exhaustive -- --nocapture
}
stage_netns()   { cargo test -p landbridge --test data_loopback --test netns -- --test-threads=1; }
stage_interop() {
    export LANDBRIDGE_INTEROP_RESULTS=$LB_TOP/target/interop.jsonl
    rm -f "$LANDBRIDGE_INTEROP_RESULTS"
    # Of a later Debian than this may be: where its mirror is out of reach the rest is done, and the end says so.
    local without=()
    if ! netns-scripts/peers/fetch strongswan6; then
        export LANDBRIDGE_TEST_WITHOUT=strongswan6
        without=(--without "strongSwan 6")
        echo "left out: strongSwan 6: its packages can't be fetched"
    fi
    netns-scripts/peers/fetch strongswan libreswan uml &&
    cargo test -p landbridge --test interop -- --test-threads=1 &&
    netns-scripts/interop-table --check "$LANDBRIDGE_INTEROP_RESULTS" docs/interop.md "${without[@]}"
}
stage_systemd() { cargo build --release --quiet && netns-scripts/systemd.sh; }
stage_demo()    { netns-scripts/demo.sh; }
# What a packet costs, in instructions: times are not repeatable, these are.
stage_instructions() { netns-scripts/instructions; }

need_packages build-essential iproute2 iputils-ping ethtool nftables tcpdump tshark iperf3 procps openssl softhsm2 opensc python3 kmod \
    systemd-container debootstrap debian-archive-keyring valgrind
[ $# -gt 0 ] && stages=$*
for stage in $stages; do
    step "$stage"
    began=$SECONDS
    if "stage_$stage" 2>&1 | tee "$log"; then verdict=ok; else verdict=FAILED; broken+=("$stage"); fi
    while read -r p f i; do
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + i))
    done < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' "$log")
    mapfile -t -O "${#left_out[@]}" left_out < <(grep '^left out: ' "$log")
    if ! grep -q '^test result:' "$log"; then
        if [ $verdict = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    fi
    printf '%s: %s (%s s)\n' "$stage" "$verdict" $((SECONDS - began))
done
echo
[ ${#broken[@]} = 0 ] || echo "failed stages: ${broken[*]}"
[ ${#left_out[@]} = 0 ] || printf '%s\n' "${left_out[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ ${#broken[@]} = 0 ] && [ "$failed" = 0 ] && [ "$skipped" = 0 ]
