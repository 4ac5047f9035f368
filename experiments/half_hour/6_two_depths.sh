#!/usr/bin/env bash
# A trained ResNet-20 that goes on as a ResNet-56 (experiments.real_accuracy.two_depths), seeds side by side; called again,
# it goes on. Takes the weights and images that pack packed. LIMIT: seconds; EPOCHS; SEEDS; SHALLOW: the network that
# answers first, by its name; if empty, it lies in the deep one, and DEPTH is its depth.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
LIMIT=${LIMIT:-$(size 560 300)} EPOCHS=${EPOCHS:-$(size 30 1)} SEEDS=${SEEDS:-$(size '0 1 2' 0)} DEPTH=${DEPTH:-$(size 20 8)}
SHALLOW=${SHALLOW-resnet$DEPTH}
flags=(--cache="$WORK/images" --output="$WORK/two_depths" --epochs="$EPOCHS" --save_seconds=30)
if [[ $SHALLOW ]]; then flags+=(--shallow="$WORK/weights/$SHALLOW.npz"); else flags+=(--depth="$DEPTH"); fi
if [[ $SMALL ]]; then
    flags+=(--start="$WORK/weights/resnet14.npz" --batch=8 --pool=2 --train_images=32 --teacher_batch=16)
    flags+=(--calibration=16 --test_images=16 --eval_batch=16)
    "$PY" -m experiments.half_hour.made_up "$WORK" || exit 1
else
    for needed in resnet56 $SHALLOW; do
        [[ -f $WORK/weights/$needed.npz ]] || { echo "no $needed.npz: name the folders that pack wrote in PARTS"; exit 1; }
    done
    teachers=()
    for depth in 56 44 32; do [[ ! -f $WORK/weights/resnet$depth.npz ]] || teachers+=("$WORK/weights/resnet$depth.npz"); done
    flags+=(--start="$WORK/weights/resnet56.npz" --teachers="$(IFS=,; echo "${teachers[*]}")" --eval_batch=5000)
    # Soft targets are of all seeds: the first to come must not compute them three times over.
    TAIL=2 step "$LIMIT" soft_targets "$PY" -m experiments.real_accuracy.teachers \
        --teachers="$(IFS=,; echo "${teachers[*]}")" --cache="$WORK/images" || exit 1
fi
for seed in $SEEDS; do
    TAIL=12 step $((LIMIT - $(date +%s) + STARTED)) "two_depths_$seed" \
        "$PY" -m experiments.real_accuracy.two_depths "${flags[@]}" --seed="$seed" &
done
wait
cp "$WORK"/two_depths/*.json "$OUT"/ 2> /dev/null
tar -czf "$OUT/two_depths.tar.gz" --exclude='*_state.npz' -C "$WORK" two_depths # weights and answers
echo "end after $(now)"
