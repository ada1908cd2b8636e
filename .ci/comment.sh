#!/usr/bin/env bash
# Put the table of `make regression` under the pull request NUMBER, in place of an earlier one.
set -euo pipefail
cd "$(dirname "$0")/.."
TABLE=_build/regression/table.md
[ -s "$TABLE" ] || { echo "There is no table in $TABLE: run 'make regression' first." >&2; exit 1; }
gh pr comment "${NUMBER:?the number of the pull request}" --body-file "$TABLE" \
  --edit-last --create-if-none
