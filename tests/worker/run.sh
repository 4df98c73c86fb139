#!/usr/bin/env bash
# Builds the edge Worker and tests it in workerd. One command; installs what is missing.
set -euo pipefail
# shellcheck source=../../scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"
# shellcheck source=../tools.sh
source "$root/tests/tools.sh"
"$root/edge-worker/build-worker.sh"
nodejs
# The Worker serves the pages as they are built.
player_build
cd "$root/tests/worker"
# The first waits for most of its minute; the others run meanwhile.
exec node --test --test-concurrency=2 leaves.test.js worker.test.js origin.test.js tokens.test.js sessions.test.js webhooks.test.js streams.test.js guards.test.js matrix.test.js events.test.js whep.test.js
