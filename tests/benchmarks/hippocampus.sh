#!/bin/bash
# Hippocampus with four labels: every trainer, the corrections of pseudo-labels, the graph of scans.
#
# 100 scans train, 4 of them labeled by draw; 60 more are development cases on which everything is
# chosen; the last 40 are test cases, which stay closed until --final. Runs are short, so that all
# of them fit a night of two cores: 600 steps of 2 + 2 patches, no mirrored copies. The same command
# goes on where it was stopped.
#
# Run: tests/benchmarks/hippocampus.sh DATA OUT [further words for gnnunet_benchmark]
# DATA holds Hippocampus in the form of the Medical Segmentation Decathlon, its first 200 cases.
set -e
source "$(dirname "$0")/_sets.sh"
prepare Hippocampus "$1" "$2"
out=$(realpath "$2")
shift 2

compare() {
    gnnunet_benchmark -d Hippocampus -o "$out/comparison" -c 3d_fullres --labeled 4 \
        --development 60 --disable_tta --set schedule.pretrain_steps=300 \
        schedule.selftrain_steps=300 batch.labeled=2 batch.unlabeled=2 \
        augmentation.mirror=false scan_graph.blend=0.65 "$@"
}

rows=()
row() { # NAME TRAINER [KEY=VALUE ...]: with the network alone, and with the vote of labeled scans
    rows+=(--row "$@" --row "$1 + vote" "${@:2}" prediction.scan_graph=true)
}
graph="pseudo_label.correct=['scan_graph']"
whole="scan_labels.rounds=1 schedule.pretrain_steps=200 schedule.selftrain_steps=400"
row SupervisedTrainer SupervisedTrainer
row BCPTrainer BCPTrainer
row "GraphCLTrainer, scan_graph, whole scans" GraphCLTrainer "$graph" $whole
row "GraphCLTrainer, scan_graph" GraphCLTrainer "$graph"
row "BCPTrainer, scan_graph" BCPTrainer "$graph"
row "SupervisedTrainer, pairs" SupervisedTrainer scan_graph.pairs=0.5
row "GraphCLTrainer, scan_graph and pairs" GraphCLTrainer "$graph" scan_graph.pairs=0.5
row MLLCTrainer MLLCTrainer
row "MLLCTrainer, no graphs" MLLCTrainer mllc.iterations=0
compare "${rows[@]}" --draws 2 "$@"
compare --row "SupervisedTrainer, no copy-paste" SupervisedTrainer copy_paste.supervised=false \
    --row "BCPTrainer, blur" BCPTrainer "pseudo_label.correct=['blur']" \
    --row "BCPTrainer, diffusion" BCPTrainer "pseudo_label.correct=['diffusion']" \
    --row "BCPTrainer, mllc" BCPTrainer "pseudo_label.correct=['mllc']" --draws 2 "$@"
compare --labeled all --trainers SupervisedTrainer --draws 1 "$@"
compare --trainers SupervisedTrainer MeanTeacherTrainer UncertaintyMeanTeacherTrainer \
    PseudoLabelTrainer FilterMatchTrainer BCPTrainer MLLCTrainer \
    --row GraphCLTrainer GraphCLTrainer scan_labels.rounds=0 \
    --row "GraphCLTrainer, scan_graph, whole scans" GraphCLTrainer "$graph" $whole --draws 3 "$@"
