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
data=$(realpath "$1") out=$(realpath -m "$2")
shift 2
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
for name in raw preprocessed results; do export "nnUNet_$name=$out/home/$name"; done
mkdir -p "$out"
if ! ls "$out"/home/preprocessed/Dataset*_LAhalf/*.manifest.json > /dev/null 2>&1; then
    gnnunet_convert nifti --images "$data/LA_half/images" --labels "$data/LA_half/labels" \
        -d LAhalf --test "$data/LA_half/test.list"
    gnnunet_plan_and_preprocess -d LAhalf --recipe la_half
fi
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
