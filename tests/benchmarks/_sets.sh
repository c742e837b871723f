# Real data sets as the benchmark scripts divide them; sourced.
#
# prepare SET DATA OUT: convert and plan once, with the test cases apart. OUT/home becomes the home
# of all commands.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

prepare() {
    local set=$1 data out name path exclude names
    data=$(realpath "$2") out=$(realpath -m "$3")
    for name in raw preprocessed results; do export "nnUNet_$name=$out/home/$name"; done
    mkdir -p "$out"
    if ls "$out"/home/preprocessed/Dataset*_"$set"/*.manifest.json > /dev/null 2>&1; then
        return
    fi
    case $set in
    Hippocampus) # the last 40 cases test
        for path in "$data"/Hippocampus/labelsTr/hippocampus_*.nii.gz; do
            basename "$path" .nii.gz
        done | tail -40 > "$out/test.txt"
        gnnunet_convert MSD "$data/Hippocampus" -d Hippocampus --test "$out/test.txt"
        gnnunet_plan_and_preprocess -d Hippocampus --recipe hippocampus
        ;;
    LAhalf) # the published order, its last 16 test
        gnnunet_convert nifti --images "$data/LA_half/images" --labels "$data/LA_half/labels" \
            -d LAhalf --test "$data/LA_half/test.list"
        gnnunet_plan_and_preprocess -d LAhalf --recipe la_half
        ;;
    ACDC) # the published training and test patients that are there, slices in 2D
        gnnunet_convert ACDC "$data/ACDC" -d ACDC
        gnnunet_plan_and_preprocess -d ACDC -c 2d --recipe quick \
            --set plan.patch_size=[128,128] network.max_stages=5
        ;;
    WBC | EMDS5) # every third picture tests; one picture of each set is there twice
        case $set in
        WBC) exclude=139 names="128=cytoplasm,255=nucleus" ;;
        EMDS5) exclude=EMDS5-g20-15 names="255=microorganism" ;;
        esac
        for path in "$data/$set"/images/*; do
            name=$(basename "$path")
            echo "${name%.*}"
        done | sort | grep -vx "$exclude" | awk 'NR % 3 == 1' > "$out/test.txt"
        gnnunet_convert pictures --images "$data/$set/images" --labels "$data/$set/masks" \
            -d "$set" --test "$out/test.txt" --exclude "$exclude" --label-names "$names"
        gnnunet_plan_and_preprocess -d "$set" --recipe quick
        ;;
    *)
        echo "no data set $set: Hippocampus, LAhalf, ACDC, WBC or EMDS5" >&2
        return 2
        ;;
    esac
}
