#!/usr/bin/env bash
# Builds the edge Worker and tests it in workerd. One command; installs what is missing.
set -euo pipefail
# shellcheck source=../../scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"
"$root/edge-worker/build-worker.sh"
nodejs
cd "$root/tests/worker"
exec node --test --test-concurrency=1 worker.test.js
