#!/bin/bash
# Left atria at half resolution with eight labels: what the graph of scans brings to another organ.
#
# 64 scans train, 8 of them labeled by draw; 16 of the 64 are development cases, the 16 test cases
# stay closed until --final. 600 steps of 2 + 2 patches. The same command goes on where it was
# stopped.
#
# Run: tests/benchmarks/la_half.sh DATA OUT [further words for gnnunet_benchmark]
# DATA holds LA_half: images, labels, test.list.
set -e
source "$(dirname "$0")/_sets.sh"
prepare LAhalf "$1" "$2"
out=$(realpath "$2")
shift 2
graph="pseudo_label.correct=['scan_graph']"
whole="scan_labels.rounds=1 schedule.pretrain_steps=200 schedule.selftrain_steps=400"
gnnunet_benchmark -d LAhalf -o "$out/comparison" -c 3d_fullres --labeled 8 --development 16 \
    --disable_tta --draws 1 --set schedule.pretrain_steps=300 schedule.selftrain_steps=300 \
    batch.labeled=2 batch.unlabeled=2 augmentation.mirror=false \
    --trainers SupervisedTrainer BCPTrainer \
    --row "SupervisedTrainer + vote" SupervisedTrainer prediction.scan_graph=true \
    prediction.scan_graph_blend=0.5 \
    --row "SupervisedTrainer + vote, blend 0.65" SupervisedTrainer prediction.scan_graph=true \
    prediction.scan_graph_blend=0.65 \
    --row "GraphCLTrainer, scan_graph, whole scans" GraphCLTrainer "$graph" $whole \
    scan_graph.blend=0.5 "$@"
