#!/usr/bin/env bash
# Proves and measures the CUDA backend on a machine with a GPU and no Rust, from binaries made by scripts/gpu_pack.sh.
#
#   scripts/gpu_check.sh [--device cuda|emulator] [--bin DIR] [--out DIR] [--parts LIST] [--seconds N] [--preset P]
#
# Parts, in order: doctor probes op_table golden device_test sanitizer kernels step decode peer. Each is bounded by --seconds
# (default 300), leaves a file NAME.json or NAME.txt in --out, and a failing one does not stop the next. At the end
# --out holds summary.json and report.md, the latter ready for docs/benchmarks.md. Exit code 1 if a part failed.
set -uo pipefail
cd "$(dirname "$0")/.."
device=cuda bin=target/gpu out=gpu-check seconds=300 preset=
parts="doctor probes op_table golden device_test sanitizer kernels step decode peer"
while [ $# -gt 0 ]; do
    case "$1" in
    --device) device="$2" ;;
    --bin) bin="$2" ;;
    --out) out="$2" ;;
    --parts) parts="${2//,/ }" ;;
    --seconds) seconds="$2" ;;
    --preset) preset="$2" ;;
    *)
        echo "error: unknown option $1; see the head of $0" >&2
        exit 2
        ;;
    esac
    shift 2
done
preset="${preset:-$([ "$device" = cuda ] && echo 7b || echo toy)}"
mkdir -p "$out"
vila="$bin/vila" tests="$bin/vila-tests"
export VILA_TEST_DEVICE="$device" VILA_TEST_ROOT="$PWD" CI=true
if [ -z "${VILA_CUDA_LIBRARIES:-}" ]; then
    # Where PyTorch's packages or the tests keep NVIDIA's libraries.
    wheels="$(python3 -c 'import glob, sys; print(next(iter(sum((glob.glob(p + "/nvidia/cu13/lib") for p in sys.path), [])), ""))')"
    [ -d target/nvrtc/nvidia/cu13/lib ] && wheels="$PWD/target/nvrtc/nvidia/cu13/lib"
    [ -n "$wheels" ] && export VILA_CUDA_LIBRARIES="$wheels"
fi
: >"$out/parts.tsv"

# part NAME FILE COMMAND...: runs a part if it was chosen; stdout goes to FILE, messages to NAME.log.
part() {
    local name="$1" file="$2" start status
    shift 2
    [[ " $parts " == *" ${name%%-*} "* ]] || return 0
    start=$(date +%s)
    timeout "$seconds" "$@" >"$out/$file" 2>"$out/$name.log"
    status=$?
    printf '%s\t%s\t%s\t%s\n' "$name" "$status" "$(($(date +%s) - start))" "$*" >>"$out/parts.tsv"
    echo "$name: exit $status after $(($(date +%s) - start)) s"
}

part doctor doctor.json "$vila" doctor --json
if [ "$device" = cuda ]; then
    part probes probes.txt python3 cuda/emulator/probes/run.py
fi
if [ "$device" = cuda ]; then
    part op_table op_table.txt "$tests" --nocapture cuda::kernels_agree_with_the_reference cuda::bits_do_not_depend
    part golden golden.txt "$tests" --nocapture golden_on_the_device
    part device_test device_test.txt "$tests" --nocapture device_run::
else
    # The whole of these runs in the tests; here the script itself is tried.
    export VILA_TEST_OP=rms_norm,attention,adamw
    part op_table op_table.txt "$tests" --nocapture cuda::kernels_agree_with_the_reference
    part golden golden.txt "$tests" --nocapture golden_on_the_device_in_bf16
    part device_test device_test.txt "$tests" --nocapture device_run::losses_in_bf16
fi
if [ "$device" = cuda ] && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        VILA_TEST_OP="rms_norm,attention,attention_backward,linear_cross_entropy,adamw" part "sanitizer-$tool" "sanitizer-$tool.txt" \
            compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" --nocapture cuda::kernels_agree_with_the_reference
    done
fi
part kernels kernels.json "$vila" bench kernels --device "$device" --preset "$preset" --json \
    $([ "$device" = cuda ] || echo "--seconds 0.01 --only rms_norm,attention,add")
step=(--device "$device" --json --preset "$preset")
case "$preset" in
7b) step+=(--dtype bf16 --seq 4096 --batch 4 --images 4 --steps 6 --warmup 3 --recompute cheap) ;;
1b) step+=(--dtype bf16 --seq 2048 --batch 8 --images 2) ;;
*) step+=(--dtype bf16 --seq 64 --batch 2 --images 1 --steps 1 --warmup 0) ;;
esac
part step step.json "$vila" bench step "${step[@]}"
part decode decode.json "$vila" bench decode --device "$device" --json --preset "$preset" \
    $([ "$device" = cuda ] || echo "--tokens 2 --context 16")
if [ "$device" = cuda ]; then
    for extra in "" "--master" "--compile" "--compile --master"; do
        name="peer$(echo "$extra" | tr -d ' ')"
        # shellcheck disable=SC2086
        part "${name/peer/peer-}" "$name.json" python3 benches/peers/torch_train_step.py --preset "$preset" --device cuda \
            --dtype bf16 --seq 4096 --batch 2 --images 4 --checkpointing $extra
    done
fi
python3 scripts/gpu_report.py "$out"
