#!/usr/bin/env bash
# The convolution kernels: whether they are right, then what they take beside XLA's.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
if [[ $SMALL ]]; then
    flags=(--rehearse --rows=2 --chain=1 --burst=0 --turns=1)
else
    flags=(--seconds=60)
fi
TAIL=45 step 110 convolutions "$PY" -m experiments.measure.conv_gpu "${flags[@]}" --output="$OUT/convolutions.json"
echo "end after $(now)"
