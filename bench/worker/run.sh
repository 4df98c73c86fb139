#!/usr/bin/env bash
# Measures one Durable Object of the edge Worker in workerd, and prints one table.
set -euo pipefail
# shellcheck source=../../scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"
"$root/edge-worker/build-worker.sh"
nodejs
exec node "$root/bench/worker/bench.mjs" "$@"
