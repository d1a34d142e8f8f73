#!/usr/bin/env bash
# One command for a machine with a CUDA device: tests on it, then kernels and engine measured, in under 9 minutes.
#
#   benchmarks/gpu.sh [--quick] [--dry-run] [--no-tests | --tests-only] [--out DIR] [--only decode,check,...]
#                     [--backend triton|torch]
#
# Needs Python with torch, triton, numpy, safetensors, tokenizers and pytest; installs nothing. Results go to
# benchmarks/results/gpu-<device>.json (and gpu-tests.json), after every part; what falls short is printed at the end.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
tests=yes measure=yes out=benchmarks/results quick=() more=() limit=200
while [ $# -gt 0 ]; do
    case $1 in
        --quick) quick=(--quick) limit=60 ;;
        --dry-run) more+=(--dry-run) ;;
        --no-tests) tests=no ;;
        --tests-only) measure=no ;;
        --out) out=$2; shift ;;
        --backend) more+=(--backend "$2"); shift ;;
        --only) more+=(--only "$2"); shift ;;
        *) sed -n '2,8p' "$0" >&2; exit 2 ;;
    esac
    shift
done

# Runs from a checkout: nothing is installed. Links are made anew where a copy of the tree has lost them.
for layer in engine kernels training bindings; do
    [ -d "src/alorakit/$layer" ] || ln -sfn "../../$layer" "src/alorakit/$layer"
done
export PYTHONPATH=src:.${PYTHONPATH:+:$PYTHONPATH}
export TOKENIZERS_PARALLELISM=false
start=$SECONDS status=0

"$PYTHON" - <<'END'
import torch
print("torch", torch.__version__, end=", ")
try:
    import triton
    print("triton", triton.__version__, end=", ")
except ImportError:
    print("no triton", end=", ")
if torch.cuda.is_available():
    device = torch.cuda.get_device_properties(0)
    print(f"{device.name}, sm_{device.major}{device.minor}, {device.total_memory / 2**30:.0f} GiB")
else:
    print("no CUDA device")
END

if [ $tests = yes ]; then
    echo "== Tests on the device"
    "$PYTHON" -m benchmarks.gpu_tests "${quick[@]}" --out "$out" --timeout $limit || status=1
fi
if [ $measure = yes ]; then
    if [ -f benchmarks/bench_kernels.py ] && [ ${#quick[@]} -eq 0 ]; then
        echo "== Kernels"
        timeout 90 "$PYTHON" -m benchmarks.bench_kernels --out "$out" || status=1
    fi
    echo "== Engine"
    timeout 230 "$PYTHON" -m benchmarks.gpu_run "${quick[@]}" "${more[@]}" --out "$out" || status=1
fi
echo "== $((SECONDS - start)) s in all"
exit $status
