#!/usr/bin/env bash
# Builds the edge Worker (Rust, wasm32) into build/worker at the root of the checkout. `wrangler dev` and `wrangler deploy` run it by
# themselves. It installs what is missing, once, and does nothing when nothing changed.
#
#   edge-worker/build-worker.sh            builds
#   edge-worker/build-worker.sh --tools    only installs what building and running need
set -euo pipefail
# shellcheck source=../scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/setup.sh"

out=$root/build/worker
npm_folder=$root/tests/worker
worker_build_version=0.8.7
# Beside the native build folder: another compiler may be at work here, and the two would undo each other's work.
target_wasm=$cache/target-wasm
target_tools=$cache/target-tools

# The version of a crate in Cargo.lock.
locked() {
  awk -v name="\"$1\"" '$1 == "name" { found = $3 == name } found && $1 == "version" { gsub(/"/, "", $3); print $3; exit }' "$root/Cargo.lock"
}

# Everything the wasm depends on, as one hash.
inputs() {
  cd "$root"
  find edge-worker protocol -name '*.rs' -not -path '*/native/*' -not -path '*/tests/*' -print0 |
    LC_ALL=C sort -z |
    xargs -0 sha256sum Cargo.toml Cargo.lock edge-worker/Cargo.toml protocol/Cargo.toml edge-worker/build-worker.sh |
    sha256sum | cut -d' ' -f1
}

# The target by rustup where it can be fetched; else the distribution's compiler, which builds the standard library from its source.
distribution_packages=(rustc-web cargo-web rust-web-src lld-19)
has_rustup_target() { command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -qx wasm32-unknown-unknown; }
has_distribution() { dpkg -s "${distribution_packages[@]}" >/dev/null 2>&1; }

choose_toolchain() {
  rust
  if has_rustup_target; then
    toolchain=rustup
  elif has_distribution; then
    toolchain=distribution
  elif command -v rustup >/dev/null && say "Adding Rust's wasm32 target by rustup" && timeout 180 rustup target add wasm32-unknown-unknown && has_rustup_target; then
    toolchain=rustup
  else
    say "rustup could not fetch the wasm32 target: taking the distribution's Rust"
    packages "Rust for wasm32, its library's source and a linker" "${distribution_packages[@]}"
    toolchain=distribution
  fi
}

version_of() { "$tools/bin/$1" --version 2>/dev/null | awk '{print $NF}'; }

install_tools() {
  local bindgen_version
  bindgen_version=$(locked wasm-bindgen)
  if [ "$(version_of worker-build)" != "$worker_build_version" ]; then
    say "Building worker-build $worker_build_version (once; 7 core-minutes)"
    nice -n 5 cargo install worker-build --locked --version "$worker_build_version" --root "$tools" --target-dir "$target_tools" --quiet
  fi
  if [ "$(version_of wasm-bindgen)" != "$bindgen_version" ]; then
    say "Building wasm-bindgen $bindgen_version (once; 3 core-minutes)"
    nice -n 5 cargo install wasm-bindgen-cli --version "$bindgen_version" --root "$tools" --target-dir "$target_tools" --force --quiet
  fi
  nodejs
  if ! cmp -s "$npm_folder/package-lock.json" "$npm_folder/node_modules/.installed"; then
    say "Installing wrangler, workerd and esbuild from npm"
    (cd "$npm_folder" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    # Each puts its own program into place; npm may be told to hold such scripts back, so they are run by name.
    for package in esbuild workerd; do (cd "$npm_folder/node_modules/$package" && node install.js); done
    cp "$npm_folder/package-lock.json" "$npm_folder/node_modules/.installed"
  fi
}

compile() {
  local flags=() environment=() began=$SECONDS
  if [ "$toolchain" = distribution ]; then
    # Cargo looks for the target's folder even where it builds the library itself, which is unlocked by RUSTC_BOOTSTRAP.
    [ -d /usr/lib/rustlib/wasm32-unknown-unknown/lib ] || as_root mkdir -p /usr/lib/rustlib/wasm32-unknown-unknown/lib
    environment=("PATH=/usr/bin:$PATH" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld-19)
    flags=(-Zbuild-std=std,panic_abort)
  fi
  [ -d "$target_wasm" ] || say "Compiling the Worker (the first time 7 core-minutes, later seconds)"
  (
    cd "$root/edge-worker"
    env "${environment[@]}" CARGO_TARGET_DIR="$target_wasm" CARGO_PROFILE_RELEASE_DEBUG=false \
      WASM_BINDGEN_BIN="$tools/bin/wasm-bindgen" ESBUILD_BIN="$npm_folder/node_modules/esbuild/bin/esbuild" \
      nice -n 5 "$tools/bin/worker-build" --release --no-opt --out-dir ../build/worker . --no-default-features --features cloudflare "${flags[@]}"
  )
  say "Built the Worker in $((SECONDS - began)) s: $(stat -c %s "$out/index_bg.wasm" | numfmt --to=iec) of wasm"
}

if [ "${1:-}" = --tools ]; then
  choose_toolchain
  install_tools
  exit
fi

# wrangler insists on a folder of pages, built or not.
mkdir -p "$root/player/dist"

exec 9>"$cache/worker-build.lock"
flock 9
wanted=$(inputs)
installed=$(cmp -s "$npm_folder/package-lock.json" "$npm_folder/node_modules/.installed" && echo yes || true)
if [ "$(cat "$out/.inputs" 2>/dev/null)" = "$wanted" ] && [ "$installed" = yes ]; then exit; fi
choose_toolchain
install_tools
if [ "$(cat "$out/.inputs" 2>/dev/null)" = "$wanted" ]; then exit; fi
compile
printf '%s' "$wanted" >"$out/.inputs"
