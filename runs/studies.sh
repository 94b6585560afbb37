#!/usr/bin/env bash
# Studies that take many hours on two CPU cores, in as many sittings as are wanted:
#
#   TEXT="wiki/*.jsonl.gz" runs/studies.sh rivals     LIMe beside its rivals: 108 trainings, 7 to 25 minutes each
#   TEXT=... runs/studies.sh deeper                   the best rivals, LLaMA and LIMe in 16, 32 and 64 layers: 42 trainings
#   TEXT=... runs/studies.sh depth                    8, 32, 64 and 128 layers, narrow: 78 trainings, from minutes to two hours
#   TEXT=... runs/studies.sh paper-rate               LLaMA and LIMe static of 32 layers at the paper's learning rate: 6 trainings
#   runs/studies.sh inside                            look into LLaMA and LIMe static of 32 layers, of each seed: 20 minutes
#   TEXT=... runs/studies.sh english                  six models on more text: 18 trainings, half an hour each
#   BENCHMARKS=... DOMAINS=... runs/studies.sh measure   score english's models, and look into those of its first seed: an hour
#   runs/studies.sh keep                              keep what is trained, while a study runs or after it was stopped
#
# What a study has trained is kept in studies/, a small archive of results and logs for each training, without weights.
# inside and measure need the weights, and so come before these are gone; the scores of each seed are kept too.
# BENCHMARKS is a folder for limelm eval --local-data, DOMAINS has texts, as in "wiki=wiki/ books=books.jsonl.gz".
# A study goes on from these, here or in a fresh clone with the same TEXT. Several may run side by side, each with MODELS
# of its own (MODELS=llama,static runs/studies.sh rivals) and with OMP_NUM_THREADS=1.
set -euo pipefail
cd "$(dirname "$0")/.."

RUNS=${RUNS:-runs/studies}
KEPT=${KEPT:-studies}
LIMELM=${LIMELM:-.venv/bin/limelm}
PYTHON=${PYTHON:-.venv/bin/python}

rivals() { study rivals rivals; }
# Two learning rates, those that were best in 8 layers, and one seed; those of 8 layers are in the study rivals. MUDDFormer has
# the norms that its paper gives deep models: without them (MODELS=mudd-former) its trainings of 32 layers go wrong.
deeper() {
    local model MODELS=${MODELS:-llama,dynamic,value-residual,dense-former,hc,delta-attention-residuals,mudd-former-norms}
    for model in ${MODELS//,/ }; do fetch rivals deeper/rivals "*-seed-42-$model"; done
    fetch rivals deeper/rivals run
    study deeper rivals rivals-16 rivals-32 rivals-64 --learning-rates '[2.5e-3, 6e-3]' --seeds 1
}
depth() { study depth depth-8 depth-32 depth-64 depth-128; }
paper-rate() { MODELS=${MODELS:-llama,static} study paper-rate depth-32 --learning-rates '[]'; }
english() { study english english; }

# Go on with a study of the given recipes.
study() {
    local name=$1
    shift
    [ -n "${TEXT:-}" ] || { echo 'runs/studies.sh: TEXT names no files, as in TEXT="wiki/*.jsonl.gz"' >&2; exit 2; }
    fetch "$name" "$name" '*'
    # shellcheck disable=SC2086 # TEXT may be several files
    [ -e "$RUNS/tokens/manifest.json" ] ||
        "$LIMELM" data prepare $TEXT --vocab-size 8192 --validation-fraction 0.002 --out "$RUNS/tokens"
    "$LIMELM" reproduce "$@" --data "$RUNS/tokens" --out "$RUNS/$name" ${MODELS:+--models "$MODELS"}
    keep
}

# Score the models of each seed of english whose weights are here, LLaMA first, and look into those of the first seed.
measure() {
    local seed model domain domains=()
    [ -n "${BENCHMARKS:-}" ] && [ -n "${DOMAINS:-}" ] || {
        echo 'runs/studies.sh: measure needs BENCHMARKS and DOMAINS, as in DOMAINS="wiki=wiki/ books=books.jsonl.gz"' >&2
        exit 2
    }
    for domain in $DOMAINS; do domains+=(--domain "$domain"); done
    for seed in "$RUNS"/english/seed-*; do
        CHECKPOINTS=()
        for model in llama static dynamic kv top-p hc; do add_checkpoint "$seed/$model"; done
        has_checkpoints "$seed" || continue
        "$LIMELM" eval "${CHECKPOINTS[@]}" --tasks lambada_openai,induction,key_value_retrieval --shots 0 \
            --local-data "$BENCHMARKS" "${domains[@]}" --out "$RUNS/scores/$(basename "$seed")"
        [ "$(basename "$seed")" != seed-42 ] ||
            "$LIMELM" analyze "${CHECKPOINTS[@]}" --data "$RUNS/tokens" --out "$RUNS/analysis"
    done
    keep
}

# Look into LLaMA and LIMe static of depth-32, of each seed at their best learning rates, and sum up what is found.
inside() {
    local seed model rate
    for seed in seed-42 seed-43 seed-44; do
        CHECKPOINTS=()
        for model in llama static; do
            for rate in "$RUNS"/depth/depth-32/learning-rate-*; do
                [ ! -e "$rate/seed-43/$model" ] || add_checkpoint "$rate/$seed/$model" # only the best rate has more seeds
            done
        done
        has_checkpoints "$RUNS/depth/depth-32 of $seed" || continue
        "$LIMELM" analyze "${CHECKPOINTS[@]}" --data "$RUNS/tokens" --out "$RUNS/inside/$seed"
    done
    [ ! -e "$RUNS/inside" ] || "$PYTHON" runs/over_seeds.py "$RUNS"/inside/seed-* --out "$RUNS/inside/over-seeds"
}

# Add a model's folder to CHECKPOINTS, if its weights are here.
add_checkpoint() { [ ! -e "$1/model.safetensors" ] || CHECKPOINTS+=("$1"); }

has_checkpoints() {
    [ ${#CHECKPOINTS[@]} -gt 0 ] || { echo "runs/studies.sh: no weights in $1: nothing to look into" >&2; return 1; }
}

# fetch STUDY FOLDER NAMES: unpack the trainings of a study that are kept.
fetch() {
    local archive
    for archive in "$KEPT/$1"/$3.tar.xz; do
        [ -e "$archive" ] || continue
        mkdir -p "$RUNS/$2"
        tar -xJf "$archive" -C "$RUNS/$2" --skip-old-files
    done
}

# Pack every finished training of every study: run.json, its result or divergence, and its logs; what tells the study's
# folder from others, the run.json of each recipe ("format" stands in no training's); and the scores of each seed.
keep() {
    local run study folder name
    mkdir -p "$RUNS"
    {
        find "$RUNS" -mindepth 3 \( -name result.json -o -name diverged.json -o -name evaluation.json \)
        find "$RUNS" -mindepth 2 -name run.json -exec grep -l '"format"' {} +
    } | sort | while read -r run; do
        folder=$(dirname "${run#"$RUNS"/}")/
        study=${folder%%/*}
        case $folder in deeper/rivals/*) study=deeper/rivals ;; esac  # kept as trainings of rivals
        folder=${folder#"$study"/}
        folder=${folder%/}
        name=${folder//\//-}
        pack "$RUNS/$study" "${folder:-.}" "$KEPT/${study##*/}/${name:-run}.tar.xz"
    done
}

pack() {
    [ ! -e "$3" ] || [ -e "$1/$2/evaluation.json" ] || return 0  # scores may have grown since
    mkdir -p "$(dirname "$3")"
    (cd "$1" && find "$2" -maxdepth 1 \( -name run.json -o -name result.json -o -name diverged.json \
        -o -name evaluation.json -o -name '*.jsonl' \)) |
        tar -C "$1" --files-from=- --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cJf "$3.part"
    mv "$3.part" "$3"
}

[ $# -gt 0 ] || set -- rivals deeper depth paper-rate english
for part in "$@"; do
    case $part in
        rivals | deeper | depth | paper-rate | inside | english | measure | keep) ;;
        *) echo "runs/studies.sh: $part is unknown; allowed: rivals, deeper, depth, paper-rate, inside, english, measure, keep" >&2; exit 2 ;;
    esac
done
command -v "$LIMELM" >/dev/null || { echo "runs/studies.sh: no $LIMELM; make setup installs it" >&2; exit 2; }
for part in "$@"; do "$part"; done
