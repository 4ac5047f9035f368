#!/usr/bin/env bash
# The fused forward kernel: whether it is right, then what it takes beside XLA.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
flags=(--config=configs/cifar10_r110.py --config.model.dtype=bfloat16)
if [[ $SMALL ]]; then
    flags+=(--rehearse --config.model.depth=8 --batch_sizes=2 --check_images=3 --run_rate=0.5 --burst=0 --turns=1)
else
    flags+=(--batch_sizes=1024,256,32,1 --unrolled --seconds=150)
fi
TAIL=80 step 230 fused "$PY" -m experiments.measure.fused_gpu "${flags[@]}" --output="$OUT/fused.json"
echo "end after $(now)"
