#!/usr/bin/env bash
# The card's ceilings, whether training starts at all, and the training step in several arrangements.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
COMPILE=${COMPILE:-$(size 230 100)}
STEPS=$(size 40 2)
ALL=$(size 54 3) SIX=$(size 6 3)
NETWORK="--config=configs/cifar10_r110.py --config.batch_size=$(size 128 8) --config.num_views=2 --config.model.dtype=bfloat16"
[[ -z $SMALL ]] || NETWORK="$NETWORK --config.model.depth=8"
ARRANGEMENTS=${ARRANGEMENTS:-$(size 'loop loop_graphs six_graphs all all_graphs all_static loop_float32' 'loop all_graphs all_static')}

TAIL=9 step 60 ceilings "$PY" -m experiments.half_hour.ceilings "$OUT/ceilings.json"

# Everything compiles at once, and nothing is timed meanwhile.
digits=(--config=configs/digits_r14.py --config.stage1.epochs="$(size 4 0.1)" --config.stage2.epochs="$(size 1 0.1)")
digits+=(--config.stage1.decay_epochs="$(size 2,3 0.05,)" --config.stage2.decay_epochs="$(size 0.5, 0.05,)")
[[ -z $SMALL ]] || digits+=(--config.model.depth=8 --config.batch_size=8 --config.num_views=2 --config.eval_every_epochs=0)
barrier digits $(printf 'step_%s ' $ARRANGEMENTS)
behind $((COMPILE + 60)) digits "$PY" -m codinet_jax.main "${digits[@]}" --workdir="$WORK/digits" --config.data_dir="$WORK/digits_data" &
for name in $ARRANGEMENTS; do
    flags=()
    case $name in
        six*) flags=(--config.model.unroll="$SIX") ;;
        all*) flags=(--config.model.unroll="$ALL") ;;
    esac
    [[ $name != *static ]] || flags+=(--config=configs/cifar10_r110.py:static)
    [[ $name != *float32 ]] || flags+=(--config.model.dtype=float32)
    captured=()
    [[ $name != *graphs && $name != *static ]] || captured=("${GRAPHED[@]}")
    TAIL=8 behind $((COMPILE + 120)) "step_$name" env "${captured[@]}" \
        "$PY" -m experiments.half_hour.barrier_profile $NETWORK "${flags[@]}" \
        --random_pixels --steps="$STEPS" --output="$OUT/step_$name.json" &
done
wait
echo "end after $(now)"
