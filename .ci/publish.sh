#!/usr/bin/env bash
# Push the site in _build/html, notebooks included, to the branch gh-pages of `origin`, as its only
# commit: what is published is what was built, and the repository does not grow.
set -euo pipefail
cd "$(dirname "$0")/.."
SITE=_build/html BRANCH=${BOOK_SITE_BRANCH:-gh-pages}
[ -e "$SITE/index.html" ] && [ -e "$SITE/.nojekyll" ] || {
  echo "There is no site in $SITE: run 'make book' first." >&2; exit 1; }
REMOTE=$(git remote get-url origin) || { echo "There is no remote 'origin' to push to." >&2; exit 1; }
COMMIT=$(git rev-parse --short HEAD)
WORK=$(mktemp -d); trap 'rm -rf "$WORK"' EXIT
cp -R "$SITE/." "$WORK"
rm -rf "$WORK/reports" "$WORK/.buildinfo"
git -C "$WORK" init -q -b "$BRANCH"
git -C "$WORK" add --all --force
git -C "$WORK" -c user.name="${GITHUB_ACTOR:-$(git config user.name || echo publisher)}" \
  -c user.email="${GITHUB_ACTOR:-publisher}@users.noreply.github.com" \
  commit -q -m "The site of $COMMIT"
# Where a token is given, git asks for it by this helper; it is never written to a file.
HELPER='!f() { echo username=x-access-token; echo "password=$GH_TOKEN"; }; f'
git -C "$WORK" ${GH_TOKEN:+-c credential.helper= -c "credential.helper=$HELPER"} \
  push -q --force "$REMOTE" "$BRANCH"
echo "Published $COMMIT to the branch $BRANCH: $(find "$WORK/notebooks" -name '*.ipynb' | wc -l) notebooks."
