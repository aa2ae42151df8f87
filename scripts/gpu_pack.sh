#!/usr/bin/env bash
# Builds what scripts/gpu_check.sh needs on a machine without Rust, into one folder (target/gpu, or the first argument) of at
# most 60 MiB: the program and the test binary, stripped.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-target/gpu}"
profile="${VILA_PACK_PROFILE:-release}"
mkdir -p "$out"

cargo build --profile "$profile" -p vila-train
tests="$(cargo test --profile "$profile" -p vila-tests --test vila --no-run --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "vila" and "test" in message["target"]["kind"]:
        print(message["executable"])')"
folder="$([ "$profile" = dev ] && echo debug || echo "$profile")"
strip -o "$out/vila" "${CARGO_TARGET_DIR:-target}/$folder/vila"
strip -o "$out/vila-tests" "$tests"

kib="$(du -sk "$out" | cut -f1)"
echo "$out: $((kib / 1024)) MiB"
if [ "$kib" -gt $((60 * 1024)) ]; then
    echo "error: $out is larger than 60 MiB" >&2
    exit 1
fi
