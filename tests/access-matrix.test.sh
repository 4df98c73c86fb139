#!/usr/bin/env bash
# docs/access-matrix.md: every test that it names is there, and every protocol of a table has all eleven cells.
set -euo pipefail
cd "$(dirname "$0")/.."
document=docs/access-matrix.md
cells=11
said=()

# Every test's name: functions of Rust, and what Node.js's tests are called.
names=$(
  grep -rhoE --include='*.rs' '^ *(async )?fn [a-z0-9_]+\(' protocol/src edge-worker/src media-core/src media-core/tests ghost-live/tests | sed -E 's/.*fn //; s/\($//'
  # shellcheck disable=SC2016
  sed -nE "s/^ *test\((['\"\`])(.*)\1, .*/\2/p" tests/worker/*.test.js tests/e2e/*.test.mjs
)

section=
declare -A seen
while IFS= read -r line; do
  case $line in
    '## '*) section=${line#'## '} ;;
    '| protocol '* | '| --- '*) ;;
    '| '*)
      IFS='|' read -r _ protocol with tests _ <<<"$line"
      row="$section:$protocol"
      seen[$row]=$((${seen[$row]:-0} + 1))
      [ -n "${tests// /}" ] || said+=("$row: $with: the cell is empty")
      while IFS= read -r cell; do
        case $cell in
          '' | 'not possible: '* | 'box decides: '*) ;;
          '`'*'`')
            name=${cell:1:-1}
            grep -qxF -- "$name" <<<"$names" || said+=("$row:$with: there is no test $name")
            ;;
          *) said+=("$row:$with: $cell is neither a test in backticks nor a reason") ;;
        esac
      done < <(sed 's/<br>/\n/g; s/^ *//; s/ *$//' <<<"$tests")
      ;;
  esac
done <"$document"

[ ${#seen[@]} -gt 0 ] || said+=("there is no table")
for row in "${!seen[@]}"; do
  [ "${seen[$row]}" -eq $cells ] || said+=("$row: ${seen[$row]} of $cells cells")
done
if [ ${#said[@]} -gt 0 ]; then
  printf 'error: %s: %s\n' "$document" "${said[0]}" >&2
  [ ${#said[@]} -eq 1 ] || printf '  %s\n' "${said[@]:1}" >&2
  exit 1
fi
echo "docs/access-matrix.md: ${#seen[@]} passed, 0 failed"
