#!/usr/bin/env bash
# On a GPU: the operator at BASE against the operator here, without and with a decay for each token,
# and the table in _build/regression. One step of decoding, and a sequence over several GPUs, are not
# timed. Exits with 1 if a case is slower by more than PERCENT (5), and by more than it varies.
set -euo pipefail
cd "$(dirname "$0")/.."
BASE=${BASE:-main} OUT=$PWD/_build/regression PYTHON=$PWD/.venv/bin/python
git rev-parse --verify --quiet "$BASE^{commit}" >/dev/null || {
  echo "There is no commit '$BASE' here: name one, as in 'make regression BASE=HEAD^'." >&2; exit 1; }
[ -x "$PYTHON" ] || { echo "There is no $PYTHON: run 'make regression', which sets it up." >&2; exit 1; }
rm -rf "$OUT" && mkdir -p "$OUT"
WORK=$(mktemp -d); trap 'git worktree remove --force "$WORK/base"; rm -rf "$WORK"' EXIT
git worktree add --quiet --detach "$WORK/base" "$BASE"
measure() { (cd "$1" && "$PYTHON" -m bench run --contenders book book-decay --out "$2" ${QUICK:+--quick}); }
measure "$WORK/base" "$OUT/base.json"
measure "$PWD" "$OUT/head.json"
"$PYTHON" -m bench compare "$OUT/base.json" "$OUT/head.json" --regressions "${PERCENT:-5}" \
  --markdown | tee "$OUT/table.md"
