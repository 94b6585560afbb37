#!/usr/bin/env bash
# What is to be measured on a machine with a CUDA device, in under 8 minutes:
#
#   runs/gpu.sh              all of the following; the time is shared out among them
#   runs/gpu.sh bench        the CUDA tests, and the benchmarks of docs/performance.md: the 1.2 B shape, 64 and 128 layers
#   runs/gpu.sh small        the recipe small on the text in DATA
#   runs/gpu.sh synthetic    5 and 6 operands and ProsQA from scratch
#   runs/gpu.sh attach       continued training of BASE on the text in BASE_DATA with and without LIMe, and what it costs
#
# Started again, trainings go on where they stopped, and what is complete is not repeated: start it until it says that all
# is complete. Runs are in RUNS (remove it to begin anew); tables and figures are copied to RESULTS. Settings are variables,
# as in LIMIT=3600 DATA=tokens runs/gpu.sh small
set -euo pipefail
cd "$(dirname "$0")/.."

LIMIT=${LIMIT:-440}                   # seconds for everything
PYTHON=${PYTHON:-python3}             # with the machine's CUDA build of PyTorch, and what '.[dev]' brings
DATA=${DATA:-tokens}                  # of `limelm data prepare`
BASE=${BASE:-base}                    # a pretrained model
BASE_DATA=${BASE_DATA:-$BASE-tokens}  # of `limelm data prepare --tokenizer BASE`
RUNS=${RUNS:-.gpu}
RESULTS=${RESULTS:-results/gpu}

names=() weights=() commands=()

# step NAME WEIGHT COMMAND...: one command, and its share of the time.
step() {
    names+=("$1") weights+=("$2")
    shift 2
    commands+=("$(printf '%q ' "$@")")
}

bench_step() {  # NAME WEIGHT OPTIONS...
    local name=$1 weight=$2
    shift 2
    step "$name" "$weight" "$PYTHON" -m limelm bench --device cuda --dtype bfloat16 --out "$RUNS/$name" "$@"
}

bench() {
    step tests 8 env TRITON_INTERPRET=0 "$PYTHON" -m pytest tests/gpu tests/routing/triton
    bench_step paper 7 --shape paper --workloads train,decode --rounds 5 \
        --cases static,static-grouped,dynamic,dynamic-grouped,kv,kv-grouped,hc
    bench_step paper-triton 4 --shape paper --workloads train --rounds 5 --cases static-triton,dynamic-triton,kv-triton
    local deep=(--shape deep --depths 64,128 --batch-size 4 --sequence-length 2048 --vocab-size 50257 --rounds 3)
    bench_step deep 5 "${deep[@]}" --cases static,dynamic,kv,static-bounded
    bench_step deep-triton 4 "${deep[@]}" --cases static-triton,dynamic-triton,kv-triton
}

small() {
    step small 7 "$PYTHON" -m limelm reproduce small --data "$DATA" --out "$RUNS/small" --models all --steps 600
}

synthetic() {
    for task in arithmetic-5 arithmetic-6 prosqa; do
        step "$task" 2 "$PYTHON" -m limelm reproduce "$task" --out "$RUNS/$task" --seeds 3
    done
}

attach() {
    bench_step attach-cost 3 --from "$BASE" --batch-size 8 --sequence-length 1024 --rounds 5
    step attach 4 "$PYTHON" -m limelm reproduce attach --from "$BASE" --data "$BASE_DATA" --out "$RUNS/attach" \
        --models base,full,kv-full,static-full --seeds 3 --steps 1000 --batch-size 16 --micro-batch-size 16 \
        --sequence-length 1024 --precision bf16 --eval-steps 1000 --save-steps 1000 --warmup-steps 50
}

# Run the steps one after the other, each for its share of the time that is left.
run_steps() {
    local unfinished=() total=0 at share weight
    mkdir -p "$RUNS"
    for weight in "${weights[@]}"; do total=$((total + weight)); done
    for at in "${!names[@]}"; do
        share=$(((LIMIT - SECONDS) * weights[at] / total))
        total=$((total - weights[at]))
        if [ -e "$RUNS/${names[at]}.complete" ]; then
            continue
        fi
        echo "== ${names[at]}, at most $share seconds: ${commands[at]}"
        if [ "$share" -gt 0 ] && timeout --kill-after 20 "$share" bash -c "${commands[at]}"; then
            touch "$RUNS/${names[at]}.complete"
        else
            unfinished+=("${names[at]}")
        fi
    done
    copy_results
    if [ ${#unfinished[@]} -gt 0 ]; then
        echo "not complete: ${unfinished[*]}; start it again, or read above what failed" >&2
        return 1
    fi
    echo "all is complete; tables and figures are in $RESULTS"
}

copy_results() {
    local file
    while IFS= read -r file; do
        mkdir -p "$RESULTS/$(dirname "$file")"
        cp "$RUNS/$file" "$RESULTS/$file"
    done < <(cd "$RUNS" && find . \( -name '*.csv' -o -name '*.png' \) -not -path '*/seed-*')
}

[ $# -gt 0 ] || set -- bench small synthetic attach
for part in "$@"; do
    case $part in
        bench | small | synthetic | attach) "$part" ;;
        *) echo "runs/gpu.sh: $part is unknown; allowed: bench, small, synthetic, attach" >&2; exit 2 ;;
    esac
done
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    { echo "runs/gpu.sh: $PYTHON sees no CUDA device; PYTHON names another" >&2; exit 2; }
run_steps
