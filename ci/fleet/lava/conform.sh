#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs `kvmipa conform` on the real KVM, and tells LAVA what came of each claim. KVMIPA: what to install, or nothing.
set -u

if [ -n "${KVMIPA:-}" ]; then
    python3 -m venv /tmp/kvmipa-venv &&
        KVMIPA_NATIVE=require /tmp/kvmipa-venv/bin/pip install --quiet "$KVMIPA" ||
        { lava-test-case kvmipa.install --result fail; exit 1; }
    PATH=/tmp/kvmipa-venv/bin:$PATH
fi

report=$(mktemp)
# shellcheck disable=SC2086  # several words
kvmipa --backend native conform --ktap ${CONFORM_OPTIONS:-} >"$report"
status=$?
cat "$report"

# "ok 3 kvmipa.size.default # SKIP": the verdict, a number, the name that is the same for ever.
tr -d '\r' <"$report" | while read -r first second third fourth _; do
    case "$first $second" in
        "not ok") lava-test-case "$fourth" --result fail ;;
        "ok "*) case $fourth in
            "#") lava-test-case "$third" --result skip ;;
            *) lava-test-case "$third" --result pass ;;
        esac ;;
    esac
done

# 0 and 1 are verdicts of claims, and 4 says that all of them were skipped; anything else is a run that had none.
case $status in
    0 | 1 | 4) lava-test-case kvmipa.run --result pass ;;
    *) lava-test-case kvmipa.run --result fail ;;
esac
rm -f "$report"
