# shellcheck shell=bash
# What only the tests need, installed once outside the checkout, in $tools. Sourced by ./test after scripts/setup.sh; seconds when warm.
#
# Versions are pinned: a newer server or encoder must not change a verdict by itself. A test whose tool is missing fails with a sentence
# that names this file; none is skipped.

# cargo_tool BINARY CRATE VERSION [CARGO OPTION...]: a program built from crates.io, once a version.
cargo_tool() {
  local binary=$1 crate=$2 version=$3
  shift 3
  [ -x "$tools/bin/$binary" ] && [ "$(cat "$tools/$binary.version" 2>/dev/null)" = "$version" ] && return
  say "Installing $crate $version into $tools (some minutes)"
  # A folder of its own: what these are built with is of no use to the workspace.
  CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools" --version "$version" --force "$@" "$crate"
  printf '%s' "$version" >"$tools/$binary.version"
  rm -rf "$tools/build"
}

# python_tools FOLDER REQUIREMENT...: packages from PyPI in a venv of the tests, $tools/FOLDER.
python_tools() {
  local venv=$tools/$1 wanted=${*:2}
  [ "$(cat "$venv/requirements" 2>/dev/null)" = "$wanted" ] && return
  packages "to install the tests' Python tools" python3-venv
  say "Installing $wanted into $venv"
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
  printf '%s' "$wanted" >"$venv/requirements"
}

# unpacked FOLDER PACKAGE...: the files of Debian packages in $tools/FOLDER. What would start a service where it is installed is not
# installed.
unpacked() {
  local folder=$tools/$1 packages=${*:2} name
  [ "$(cat "$folder/packages" 2>/dev/null)" = "$packages" ] && return
  say "Unpacking $packages into $folder"
  rm -rf "$folder"
  mkdir -p "$folder/deb"
  as_root apt-get update -qq
  (
    cd "$folder/deb"
    apt-get download -qq -o APT::Sandbox::User=root "${@:2}"
  )
  for name in "$folder"/deb/*.deb; do dpkg -x "$name" "$folder"; done
  rm -rf "$folder/deb"
  printf '%s' "$packages" >"$folder/packages"
}

# One installation at a time: a second ./test waits and then finds everything there.
exec {tools_lock}>"$tools/.lock"
flock "$tools_lock"

packages "an encoder that publishes, and an independent reader of playlists" ffmpeg
packages "other encoders that publish: GStreamer's own RTMP, and librtmp through it" gstreamer1.0-tools gstreamer1.0-plugins-base \
  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav
packages "the encoder that most streamers have, with a screen and OpenGL by the processor" obs-studio xvfb libgl1-mesa-dri
packages "an ACME server" pebble
packages "the browsers of the end-to-end tests" chromium firefox-esr webkit2gtk-driver xvfb
packages "what WebKitGTK decodes and plays with" gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav
packages "to build the tools from crates.io" curl ca-certificates build-essential pkg-config cmake

# The reverse proxies that infra/proxy has samples for.
unpacked proxies nginx libnginx-mod-stream caddy

# The test runner, and the check of licences and sources.
command -v cargo-nextest >/dev/null || cargo_tool cargo-nextest cargo-nextest 0.9.143
cargo_tool cargo-deny cargo-deny 0.20.2
# A real S3 server over a folder, with conditional requests and ranges; it has neither CORS nor lifecycle rules.
cargo_tool s3s-fs s3s-fs 0.14.1 --features binary
# A mock of S3 that has those two, for `bucket init`.
python_tools venv 'moto[server]==5.2.5'
# Holds the HTTP surface to its description, in a venv of its own: neither chooses the other's versions.
python_tools schemathesis 'schemathesis==4.32.5' 'hypothesis==6.170.15' 'jsonschema_rs==0.60.3' 'openapi-spec-validator==0.9.0'

exec {tools_lock}>&-
export GHOST_LIVE_TOOLS=$tools
