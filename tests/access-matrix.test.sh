#!/usr/bin/env bash
# docs/access-matrix.md: every protocol that there is has its eleven cells in each table, and every test that a cell names is a test.
set -euo pipefail
cd "$(dirname "$0")/.."
document=${1:-docs/access-matrix.md}

# What somebody can lack, in the order of the tables.
# shellcheck disable=SC2016
lacks=(
  'no token'
  'wrong'
  'expired'
  'not yet valid'
  'other stream'
  'other action'
  'wrong address'
  "other tenant's issuer"
  'revoked in mid-session'
  '`sess_exp` in mid-session'
  'rotated key'
)
# What somebody can come by. A protocol that is added is added here.
protocols=(
  'RTMP, RTMPS: stream key'
  'RTMP, RTMPS: token'
  'HLS'
  'DASH, the MPD'
  'DASH, segments'
  'WHEP'
  'API, by a token that manages'
  'Studio, by its link'
)
wanted=$(
  for section in 'The decision' 'Native edge' 'Worker'; do
    if [ "$section" = 'The decision' ]; then of=(any); else of=("${protocols[@]}"); fi
    for protocol in "${of[@]}"; do printf "$section: $protocol: %s\n" "${lacks[@]}"; done
  done
)

# What is run as a test: functions of Rust with the attribute that makes them one (and none that keeps them from being run), and what
# Node.js's tests are called.
names=$(
  find protocol/src edge-worker/src media-core/src media-core/tests ghost-live/tests -name '*.rs' -exec awk '
    FNR == 1 { test = 0 }
    /^ *#\[(tokio::)?test[](]/ { test = 1 }
    /^ *#\[ignore/ { test = 0 }
    match($0, /fn [a-z0-9_]+\(/) {
      if (test) print substr($0, RSTART + 3, RLENGTH - 4)
      test = 0
    }' {} +
  # shellcheck disable=SC2016
  sed -nE "/skip|todo/d; s/^ *test\((['\"\`])(.*)\1, .*/\2/p" tests/worker/*.test.js tests/e2e/*.test.mjs
)

said=() rows=() section=
while IFS= read -r line; do
  case $line in
    '## '*) section=${line#'## '} ;;
    '| protocol '* | '| --- '*) ;;
    '| '*)
      IFS='|' read -r _ protocol with tests _ <<<"$line"
      row=$(sed 's/  */ /g; s/ :/:/g; s/ $//' <<<"$section:$protocol:$with")
      rows+=("$row")
      [ -n "${tests// /}" ] || said+=("$row: the cell is empty")
      while IFS= read -r cell; do
        case $cell in
          '' | 'not possible: '* | 'box decides: '*) ;;
          '`'*'`')
            name=${cell:1:-1}
            grep -qxF -- "$name" <<<"$names" || said+=("$row: there is no test $name")
            ;;
          *) said+=("$row: $cell is neither a test in backticks nor a reason") ;;
        esac
      done < <(sed 's/<br>/\n/g; s/^ *//; s/ *$//' <<<"$tests")
      ;;
  esac
done <"$document"

while IFS= read -r row; do
  case $row in
    '< '*) said+=("${row#'< '}: the row is missing, or not in its place") ;;
    '> '*) said+=("${row#'> '}: nobody asked for this row, or not in this place") ;;
  esac
done < <(diff <(printf '%s\n' "$wanted") <(printf '%s\n' "${rows[@]}"))
if [ ${#said[@]} -gt 0 ]; then
  printf 'error: %s: %s\n' "$document" "${said[0]}" >&2
  [ ${#said[@]} -eq 1 ] || printf '  %s\n' "${said[@]:1}" >&2
  exit 1
fi
echo "docs/access-matrix.md: ${#rows[@]} passed, 0 failed"
