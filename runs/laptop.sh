#!/usr/bin/env bash
# Experiments for two CPU cores:
#
#   runs/laptop.sh seeds         which of five models differ, over five seeds: 37 minutes; writes seeds/report.html
#   runs/laptop.sh arithmetic    four models that learn to calculate, with five seeds: hours; writes arithmetic/report.html
#   runs/laptop.sh               both
#
# Started again, each goes on where it stopped. `make setup` installs what they need. Settings are variables, as in
# SEEDS=2 runs/laptop.sh seeds
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS=${SEEDS:-5}
LIMELM=${LIMELM:-.venv/bin/limelm}

seeds() {
    "$LIMELM" reproduce tiny --out seeds --seeds "$SEEDS" --models llama,hc,static,dynamic,kv --eval-steps 20
}

arithmetic() {
    "$LIMELM" reproduce arithmetic-3 arithmetic-4 --out arithmetic --seeds "$SEEDS" --models llama,static,dynamic,kv
}

[ $# -gt 0 ] || set -- seeds arithmetic
for experiment in "$@"; do
    case $experiment in
        seeds | arithmetic) ;;
        *) echo "runs/laptop.sh: $experiment is unknown; allowed: seeds, arithmetic" >&2; exit 2 ;;
    esac
done
command -v "$LIMELM" >/dev/null || { echo "runs/laptop.sh: no $LIMELM; make setup installs it" >&2; exit 2; }
for experiment in "$@"; do "$experiment"; done
