# Shared helpers; sourced by the other scripts here.  Needs bash and root.
# Everything lives below $UM_CACHE (unpacked Debian packages) or a caller's
# state directory; nothing is written elsewhere on the host.
UM_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
UM_CACHE=${UM_CACHE:-$(dirname "$UM_HOME")/.cache}
UM_LATER=${UM_LATER:-forky}        # the Debian that strongswan6 is of
UM_TOOLS=(iproute2 iputils-ping kmod openssl python3 util-linux procps)

um_die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# Running, that is neither gone nor a zombie nobody has reaped yet.
um_alive() { local l; { read -r l <"/proc/$1/stat"; } 2>/dev/null && [[ ${l##*) } != Z* ]]; }

# Install the few host tools by package name.  The peers themselves are never
# installed: see um_root.
um_install() {
    local missing=() p
    for p in "${UM_TOOLS[@]}"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
    done
    [ ${#missing[@]} = 0 ] && return 0
    um_install_once "${missing[@]}" || { apt-get -q update >&2; um_install_once "${missing[@]}"; }
}

um_install_once() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

um_packages() {     # packages which make up a root
    case $1 in
        uml)        echo user-mode-linux ;;
        strongswan) echo libstrongswan libstrongswan-standard-plugins libstrongswan-extra-plugins \
                         strongswan-libcharon libcharon-extra-plugins libcharon-extauth-plugins strongswan-starter \
                         strongswan-charon charon-systemd strongswan-swanctl strongswan-pki ;;
        # Of a later Debian: with the libraries that they are built against.
        strongswan6) echo libstrongswan libstrongswan-standard-plugins libstrongswan-extra-plugins strongswan-libcharon \
                         libcharon-extra-plugins libcharon-extauth-plugins strongswan-charon strongswan-swanctl \
                         libc6 libc-bin libgcc-s1 libssl3t64 libgmp10 libzstd1 zlib1g libcap2 ;;
        libreswan)  echo libreswan ;;
        openiked)   echo openiked ;;
        *)          return 1 ;;
    esac
}

# um_later SUITE COMMAND...: apt-get or apt-cache with a later Debian's packages; the host's own lists are not touched.
um_later() {
    local dir=$UM_CACHE/apt-$1
    mkdir -p "$dir/lists/partial" "$dir/archives/partial"
    : >"$dir/status"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || um_die "no key of Debian's archive (package debian-archive-keyring)"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $1 main" >"$dir/sources.list"
    "$2" -q -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$dir/lists" \
        -o Dir::State::status="$dir/status" -o Dir::Cache="$dir" -o APT::Sandbox::User=root "${@:3}"
}

# um_download FOLDER PACKAGE...: the packages' files, and those of what they need.
um_download() {
    local to=$1 deps
    shift
    # Dependencies to add: what apt would newly install here ("[old]" entries
    # are upgrades of things present; those the host already has).
    deps=$(apt-get install -s --no-install-recommends "$@" 2>/dev/null |
           awk '$1 == "Inst" && $3 !~ /^\[/ {print $2}')
    ( cd "$to" && apt-get -q -o APT::Sandbox::User=root download $(printf '%s\n' "$@" $deps | sort -u) ) >&2
}

# um_root NAME: print the directory holding NAME's unpacked packages plus every
# dependency the host lacks, fetching it first when absent.  Unpacked only, so
# packages which conflict with each other or with the host's can coexist.  Such
# a directory is meant to be stacked over the host's / with overlayfs.
um_root() {
    local name=$1 dir=$UM_CACHE/root-$1 pkgs tmp d
    pkgs=$(um_packages "$name") || um_die "unknown root $name"
    [ -e "$dir/.complete" ] && { echo "$dir"; return; }
    mkdir -p "$UM_CACHE"
    tmp=$(mktemp -d "$UM_CACHE/tmp.XXXXXX") || return
    chmod 755 "$tmp"
    if [ "$name" = strongswan6 ]; then
        um_later "$UM_LATER" apt-get update >&2 && (cd "$tmp" && um_later "$UM_LATER" apt-get download $pkgs >&2)
    else
        apt-cache show $pkgs >/dev/null 2>&1 || apt-get -q update >&2
        # A list that is out of date names files that the mirror has no more.
        um_download "$tmp" $pkgs || { apt-get -q update >&2; um_download "$tmp" $pkgs; }
    fi || { rm -rf "$tmp"; um_die "download for $name failed"; }
    rm -rf "$dir"; mkdir -p "$dir/usr/lib" "$dir/usr/bin" "$dir/usr/sbin" "$dir/usr/lib64"
    # Match the host's merged /usr, so the overlay merges instead of hiding.
    for d in lib bin sbin lib64; do [ -L "/$d" ] && ln -s "usr/$d" "$dir/$d"; done
    for d in "$tmp"/*.deb; do
        dpkg-deb --fsys-tarfile "$d" | tar -x --keep-directory-symlink -C "$dir" || return
    done
    [ "$name" = uml ] && ln -s uml/modules "$dir/usr/lib/modules"
    rm -rf "$tmp"; touch "$dir/.complete"
    echo "$dir"
}
