#!/usr/bin/env bash
# Trains: runs of experiments.reproduce, several at a time, and the plan of experiments.real_accuracy if weights are
# there. Called again, it goes on. LIMIT: seconds; RUNS: which; SCALE; PLAN: a file of runs of the plan; EPOCHS of those.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
LIMIT=${LIMIT:-$(size 540 150)} SCALE=${SCALE:-$(size gpu30 smoke)} EPOCHS=${EPOCHS:-12}
RUNS=${RUNS:-$(size 'cifar10_r110_codinet cifar10_r110_static cifar10_r110_vanilla' cifar10_r110_codinet)}
changes=()
convolution=xla
if [[ $SMALL ]]; then
    changes=(batch_size=8)
else
    ! is_done convolutions || convolution=cuda # call 4 found them right
    changes=(data_dir="$WORK/tfds" model.convolution=$convolution)
    "$PY" -c "import pathlib; from experiments.half_hour import unpack; unpack.prepare(pathlib.Path('$WORK'))" || exit 1
    [[ -d $WORK/tfds ]] || { echo "no CIFAR-10: name the folders that pack wrote in PARTS"; exit 1; }
fi
for run in $RUNS; do
    TAIL=2 step "$LIMIT" "train_$run" env "${GRAPHED[@]}" \
        "$PY" -m experiments.half_hour.train_run "$run" "$SCALE" "$WORK/reproduced" "${changes[@]}" &
done
if [[ -z $SMALL && -d $WORK/weights ]]; then
    plan=(--weights="$WORK/weights" --output="$WORK/real" --cache="$WORK/images" --epochs="$EPOCHS" --parallel=3)
    plan+=(--seconds=$((LIMIT - 30)) --start_until=$((LIMIT - 110)) --more="--convolution=$convolution --save_seconds=30")
    [[ -z ${PLAN:-} ]] || plan+=(--plan="$PLAN")
    TAIL=60 step "$LIMIT" plan "$PY" -m experiments.real_accuracy.plan "${plan[@]}" &
else
    echo 'no plan of experiments.real_accuracy: it takes weights, and a GPU'
fi
wait
for run in $RUNS; do
    folder=$WORK/reproduced/$SCALE/$run
    mkdir -p "$OUT/$run"
    for file in results.json config.json metrics.jsonl weights.npz; do
        [[ ! -f $folder/seed_0/$file ]] || cp "$folder/seed_0/$file" "$OUT/$run/"
    done
done
[[ ! -d $WORK/real ]] || tar -czf "$OUT/real.tar.gz" --exclude=compiled --exclude='*_weights.npz' -C "$WORK" real
echo "end after $(now)"
