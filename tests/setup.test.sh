#!/usr/bin/env bash
# A machine with neither Rust nor Node.js: scripts/setup.sh says that it installs them, and goes on. Nothing is really installed.
set -euo pipefail
if [ "${1:-}" != --bare ]; then
  # As a process of its own: in a `||` list bash would forget the `set -e` that this is about.
  set +e
  said=$("$0" --bare 2>&1)
  status=$?
  set -e
  for line in 'Installing Rust' 'Installing Node.js' 'went on with 1.'; do
    [[ $said == *"$line"* ]] || { printf 'error: scripts/setup.sh on a bare machine (status %s) does not say "%s":\n%s\n' "$status" "$line" "$said" >&2; exit 1; }
  done
  echo "scripts/setup.sh on a bare machine: 3 passed, 0 failed"
  exit
fi

bare=$(mktemp -d)
trap '/bin/rm -rf "$bare"' EXIT
export GHOST_LIVE_CACHE=$bare/cache
source "$(dirname "$0")/../scripts/setup.sh"
for tool in awk chmod head mkdir sort tr; do ln -s "$(command -v "$tool")" "$bare/$tool"; done

# What would reach the network, or change the machine.
packages() { :; }
curl() { :; }
program() {
  printf '#!/bin/sh\necho "%s"\n' "$2" >"$1"
  chmod +x "$1"
}
sh() { program "$bare/rustc" "rustc $rust_needed.0 (of the test)"; }
python3() {
  mkdir -p "$3/bin"
  program "$3/bin/pip" installed
}
PATH=$bare
rust
nodejs
echo "went on with $(rust_version)"
