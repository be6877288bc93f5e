#!/usr/bin/env bash
# Installs the Debian packages that weft's tests and lab need and this machine lacks. Installs nothing and needs no
# root when nothing is missing. Services of the installed packages are not started: the lab runs its own. cloud-init, whose
# own code a scenario asks for metadata with, is unpacked into .cache and not installed: it would configure this machine when
# it next starts.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

packages=(
  openvswitch-switch etcd-server etcd-client dnsmasq-base # what a node runs
  iptables conntrack iproute2 ethtool                     # what agents and their tests read back with
  tcpdump iputils-ping iputils-arping socat curl          # what scenarios prove things with
  python3-configobj python3-requests python3-yaml         # what cloud-init's code imports
  git gcc libc6-dev                                       # the race detector links with C
)

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

if ! command -v dpkg-query >/dev/null; then
  printf 'deps: this is not a Debian system; install what these packages hold, then go on: %s\n' "${packages[*]}" >&2
  exit 1
fi

cloudinit=$(dirname "$0")/../.cache/cloud-init
unpack_cloudinit() (
  mkdir -p "$(dirname "$cloudinit")"
  dir=$(mktemp -d "$cloudinit.XXXXXX")
  trap 'rm -rf "$dir"' EXIT
  (cd "$dir" && apt-get download -q cloud-init)
  dpkg-deb -x "$dir"/cloud-init_*.deb "$dir/unpacked"
  mv "$dir/unpacked" "$cloudinit"
)

missing=()
for p in "${packages[@]}"; do
  installed "$p" || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ] && [ -d "$cloudinit" ]; then
  echo "deps: all ${#packages[@]} packages are installed"
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  printf 'deps: run as root, or by hand: apt-get install %s, and unpack cloud-init into %s\n' "${missing[*]}" "$cloudinit" >&2
  exit 1
fi

# A policy-rc.d that answers 101 keeps package scripts from starting services (invoke-rc.d(8)), with systemd or without.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
fi

echo "deps: installing ${missing[*]:-nothing}, unpacking cloud-init"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
[ ${#missing[@]} -eq 0 ] || apt-get install -q -y --no-install-recommends "${missing[@]}"
[ -d "$cloudinit" ] || unpack_cloudinit
