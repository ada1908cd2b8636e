#!/usr/bin/env bash
# On a GPU: the operator at BASE against the operator here, and the table in _build/regression.
# Exits with 1 if a case is slower by more than PERCENT (5), and by more than it varies.
set -euo pipefail
cd "$(dirname "$0")/.."
BASE=${BASE:-main} OUT=$PWD/_build/regression PYTHON=$PWD/.venv/bin/python
rm -rf "$OUT" && mkdir -p "$OUT"
WORK=$(mktemp -d); trap 'git worktree remove --force "$WORK/base"; rm -rf "$WORK"' EXIT
git worktree add --quiet --detach "$WORK/base" "$BASE"
measure() { (cd "$1" && "$PYTHON" -m bench run --contenders book --out "$2" ${QUICK:+--quick}); }
measure "$WORK/base" "$OUT/base.json"
measure "$PWD" "$OUT/head.json"
"$PYTHON" -m bench compare "$OUT/base.json" "$OUT/head.json" --regressions "${PERCENT:-5}" \
  --markdown | tee "$OUT/table.md"
