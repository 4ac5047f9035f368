#!/usr/bin/env bash
# PyTorch beside ours, answering and training, ResNet-110 and ResNet-50.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
if ! "$PY" -c 'import torch' 2>/dev/null; then
    echo 'PyTorch is not installed: nothing to set beside ours. pip install torch, and call this again.'
    exit 0
fi
export TORCHINDUCTOR_FX_GRAPH_CACHE=1 TORCHINDUCTOR_CACHE_DIR=$WORK/inductor
COMPILE=${COMPILE:-130}
SHAPE="--config.batch_size=$(size 128 8) --config.num_views=2 --config.model.dtype=bfloat16"
VARIANTS=$(size graph,blocks_graph,reduce_overhead eager)
R110=configs/cifar10_r110.py R50=configs/imagenet_r50.py
compare=("$PY" -m experiments.measure.compare_pytorch --config=$R110 --config.model.dtype="$(size bfloat16 float32)")
compare+=(--batch_sizes="$(size 1,32,256,1024 2)")
[[ -z $SMALL ]] || { compare+=(--config.model.depth=8); SHAPE="$SHAPE --config.model.depth=8"; }

# theirs SECONDS NAME CONFIG VARIANTS FLAGS...
theirs() {
    local limit=$1 name=$2 config=$3 variants=$4
    shift 4
    TAIL=12 step "$limit" "$name" "$PY" -m experiments.measure.torch_training --config="$config" --variants="$variants" \
        --time_limit=$((limit - 5)) --output="$OUT/$name.json" $SHAPE "$@"
}

if [[ -z $SMALL ]]; then # compile everything at once; kept by name of file, so that timing finds it compiled
    barrier step_r50_all step_r50_loop step_r50_all_static
    "$PY" -c "from codinet_jax.inference.fused import cuda; cuda.LIBRARY.build('CUDA')" > "$OUT/build.log" 2>&1 &
    for name in all loop all_static; do
        config=$R50 flags=()
        [[ $name != all* ]] || flags=(--config.model.unroll=16)
        [[ $name != *static ]] || config=$R50:static
        TAIL=8 behind $((COMPILE + 100)) "step_r50_$name" env "${GRAPHED[@]}" \
            "$PY" -m experiments.half_hour.barrier_profile --config=$config "${flags[@]}" $SHAPE \
            --random_pixels --steps=20 --output="$OUT/step_r50_$name.json" &
    done
    theirs $COMPILE warm_torch_r110_static $R110:static reduce_overhead --repeats=1 &
    theirs $COMPILE warm_torch_r110 $R110 reduce_overhead --repeats=1 &
    theirs $COMPILE warm_torch_r50_static $R50:static reduce_overhead --repeats=1 &
    step $COMPILE warm_compare "${compare[@]}" --repeats=1 --time_limit=$((COMPILE - 40)) --output="$OUT/warm_compare.json" &
    wait
    echo "compiled, and quiet, after $(now)"
fi
TAIL=60 step 150 compare "${compare[@]}" --repeats="$(size 9 1)" --time_limit=110 --compile_limit=40 --output="$OUT/compare.json"
theirs 60 torch_r110_static $R110:static "$VARIANTS" --repeats="$(size 7 1)"
theirs 60 torch_r110 $R110 "$VARIANTS" --repeats="$(size 7 1)"
[[ $SMALL ]] || theirs 50 torch_r50_static $R50:static "$VARIANTS"
rm -f "$OUT"/warm_*.json
echo "end after $(now)"
