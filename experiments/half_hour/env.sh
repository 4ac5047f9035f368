# Sourced by the calls. Variables, all optional:
#   WORK   what stays from call to call: data, weights, compiled kernels   OUT     what is measured: JSON and logs
#   PARTS  folders that pack wrote and that are here, to be unpacked first  PY      the Python
#   SMALL  1: depth 8, batch 8 and a few steps on a CPU, which shows that a call runs and nothing else
set -u
WORK=$(mkdir -p "${WORK:=half_hour_out/work}" && cd "$WORK" && pwd) || exit 1
OUT=$(mkdir -p "${OUT:=half_hour_out/results}" && cd "$OUT" && pwd) || exit 1
UNPACK=(); for part in ${PARTS:-}; do UNPACK+=("$(cd "$part" && pwd)") || exit 1; done
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
export WORK OUT PY=${PY:-python3} SMALL=${SMALL:-} PYTHONUNBUFFERED=1 PYTHONPATH=$WORK/site:$PWD${PYTHONPATH:+:$PYTHONPATH}
[[ -z $SMALL ]] || export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0"
export CODINET_JAX_CACHE=${CODINET_JAX_CACHE:-$WORK/kernels} XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$WORK/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
STARTED=$(date +%s)
now() { echo "$(($(date +%s) - STARTED)) s"; }
size() { if [[ $SMALL ]]; then echo "$2"; else echo "$1"; fi; } # size LARGE SMALL

is_done() { [[ $(cat "$OUT/$1.rc" 2>/dev/null) = 0 ]]; }

# step SECONDS NAME COMMAND...: bounded, its log in OUT/NAME.log and its status in OUT/NAME.rc; skipped if that is 0.
# TERM, because a shell lets what it starts in the background ignore INT.
step() {
    local limit=$1 name=$2 status=0
    shift 2
    if is_done "$name"; then echo "== $name: there already"; return 0; fi
    timeout -s TERM -k 10 "$limit" "$@" > "$OUT/$name.log" 2>&1 || status=$?
    echo $status > "$OUT/$name.rc"
    echo "== $name: status $status after $(now)"
    tail -n "${TAIL:-4}" "$OUT/$name.log" | cut -c1-300
    return $status
}

# What `env` is given before a command: CUDA graphs, and no compilation cache, with which they crash (README.md).
GRAPHED=(-u JAX_COMPILATION_CACHE_DIR "XLA_FLAGS=${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=+WHILE,+CONVOLUTION --xla_gpu_graph_min_graph_size=1")

# barrier NAMES: those of them that are not done will wait for each other, for COMPILE seconds at most.
barrier() {
    rm -rf "$WORK/ready"; mkdir -p "$WORK/ready"
    export EXPECT=0 UNTIL=$(($(date +%s) + COMPILE))
    local name
    for name in "$@"; do is_done "$name" || EXPECT=$((EXPECT + 1)); done
}

# behind SECONDS NAME COMMAND...: a step of those that wait; one that fails keeps nobody waiting.
behind() { NAME=$2 step "$@"; local status=$?; touch "$WORK/ready/$2"; return $status; }

[[ ${#UNPACK[@]} = 0 ]] || $PY -m experiments.half_hour.unpack "$WORK" "${UNPACK[@]}" || exit 1
