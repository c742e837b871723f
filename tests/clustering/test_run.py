import csv
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import QUICK, blob, blob_volume, iou, read, save, write_volume
from tiny_study import real_data

import graphnn_unet
from graphnn_unet.clustering import run, segment, slices
from graphnn_unet.errors import CasesFailedError, FaultsError, RefusedError
from graphnn_unet.images.read import read_volume
from graphnn_unet.metrics.unsupervised import evaluate_unsupervised


def rows(folder: Path) -> list[dict]:
    with (folder / "clusters.csv").open() as file:
        return list(csv.DictReader(file))


def test_objects_are_found_and_everything_is_recorded(folder, tmp_path):
    out = tmp_path / "out"
    result = graphnn_unet.cluster(folder, out, **QUICK)
    assert result.clustered == ["p0", "p1", "p2"]
    for seed in range(3):
        assert iou(read(out / f"p{seed}.png") == 1, blob(seed=seed)[1]) > 0.9
    assert [row["case"] for row in rows(out)] == result.clustered
    assert all(row["clusters"] == "2" and row["features"] for row in rows(out))
    facts = json.loads((out / "clustering.json").read_text(encoding="utf-8"))
    assert facts["settings"]["loss"] == "cc"
    assert not facts["transductive"]


def test_done_images_are_kept_and_damaged_ones_made_again(folder, tmp_path):
    out = tmp_path / "out"
    graphnn_unet.cluster(folder, out, **QUICK)
    before = {path.name: path.read_bytes() for path in out.glob("*.png")}
    (out / "p1.png").write_bytes(before["p1.png"][:40])
    result = graphnn_unet.cluster(folder, out, **QUICK)
    assert (result.clustered, result.kept) == (["p1"], ["p0", "p2"])
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == before
    assert len(rows(out)) == 3


def test_order_and_number_of_images_change_nothing(folder, tmp_path):
    graphnn_unet.cluster(folder, tmp_path / "all", **QUICK)
    (folder / "p0.png").unlink()
    graphnn_unet.cluster(folder, tmp_path / "two", **QUICK)
    for name in ("p1.png", "p2.png"):
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_other_settings_are_refused_until_overwrite(folder, tmp_path):
    out = tmp_path / "out"
    graphnn_unet.cluster(folder, out, **QUICK)
    with pytest.raises(RefusedError, match=r"settings\.seed 0 there, 1 here"):
        graphnn_unet.cluster(folder, out, **QUICK, seed=1)
    result = graphnn_unet.cluster(folder, out, **QUICK, seed=1, overwrite=True)
    assert len(result.clustered) == 3


@pytest.mark.parametrize("ending", [".mhd", ".img", ".mgz"])
def test_volumes_in_two_files_are_clustered_kept_and_scored(tmp_path, ending):
    array, mask = blob_volume()
    write_volume(tmp_path / "in" / f"v{ending}", array)
    truth = write_volume(tmp_path / "truth" / f"v{ending}", mask.astype(np.float32))
    options = {"side": 24, "cell": 2, "steps": 12, "n_workers": 0}
    result = graphnn_unet.cluster(tmp_path / "in", tmp_path / "out", as_labels="Balls", **options)
    assert result.clustered == ["v"]
    label = read_volume(result.dataset / "labelsTr" / "v.nii.gz")
    assert (label.array == read_volume(tmp_path / "out" / "v.nii.gz").array).all()
    assert graphnn_unet.cluster(tmp_path / "in", tmp_path / "out", **options).kept == ["v"]
    scored = evaluate_unsupervised(tmp_path / "out", truth.parent, tmp_path / "scores")
    assert scored.mean_iou > 0.5


def test_label_maps_of_an_older_version_are_not_mixed_with_new_ones(folder, tmp_path):
    out = tmp_path / "out"
    graphnn_unet.cluster(folder, out, **QUICK)
    facts = json.loads((out / "clustering.json").read_text(encoding="utf-8"))
    (out / "clustering.json").write_text(json.dumps({**facts, "schema_version": 1}))
    with pytest.raises(RefusedError, match="another version of the program made them"):
        graphnn_unet.cluster(folder, out, **QUICK)
    assert len(graphnn_unet.cluster(folder, out, **QUICK, overwrite=True).clustered) == 3


OTHER = {**QUICK, "method": "deepcut", "cell": 4}
"""Settings whose label maps are others."""


def maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def stopped(function, at: int):
    """The function, interrupted when it is called for the ``at``-th time."""
    calls = []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return call


def make_half_of_the_room(target, todo, **options):
    MAKE_ROOM(target, todo[:1], **options)
    raise KeyboardInterrupt


MAKE_ROOM = run._make_room
STOPS = {
    "before": ("_make_room", stopped(MAKE_ROOM, 1)),
    "between the maps": ("_make_room", make_half_of_the_room),
    "before the settings": ("write_json", stopped(run.write_json, 1)),
    "before the first map": ("write_label_map", stopped(run.write_label_map, 1)),
    "before the last map": ("write_label_map", stopped(run.write_label_map, 3)),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_overwrite_leaves_no_map_of_other_settings(folder, tmp_path, monkeypatch, stop):
    """Whenever it is stopped, the settings in the folder are those of its label maps."""
    out = tmp_path / "out"
    graphnn_unet.cluster(folder, tmp_path / "first", **QUICK)
    graphnn_unet.cluster(folder, tmp_path / "second", **OTHER)
    expected = {"auto": maps(tmp_path / "first"), "deepcut": maps(tmp_path / "second")}
    assert not expected["auto"].items() & expected["deepcut"].items()
    graphnn_unet.cluster(folder, out, **QUICK)
    monkeypatch.setattr(run, *STOPS[stop])
    with pytest.raises(KeyboardInterrupt):
        graphnn_unet.cluster(folder, out, **OTHER, overwrite=True)
    monkeypatch.undo()
    facts = json.loads((out / "clustering.json").read_text(encoding="utf-8"))
    method = facts["settings"]["method"]
    assert maps(out).items() <= expected[method].items()
    result = graphnn_unet.cluster(folder, out, **(QUICK if method == "auto" else OTHER))
    assert len(result.clustered) + len(result.kept) == 3
    assert maps(out) == expected[method]
    assert [row["case"] for row in rows(out)] == ["p0", "p1", "p2"]


def test_an_image_that_fails_keeps_no_older_map(folder, tmp_path):
    out = tmp_path / "out"
    for overwrite in (True, False):
        save(folder / "p1.png", blob(seed=1)[0])
        graphnn_unet.cluster(folder, out, **QUICK)
        (folder / "p1.png").write_bytes(b"nothing")
        with pytest.raises(CasesFailedError):
            graphnn_unet.cluster(folder, out, **QUICK, overwrite=overwrite)
        assert list(maps(out)) == ["p0.png", "p2.png"]
        assert [row["case"] for row in rows(out)] == ["p0", "p2"]


def test_maps_of_other_images_of_the_same_name_are_not_kept(folder, tmp_path):
    """Names, sizes and times are equal; what is in the files is not."""
    out, other = tmp_path / "out", tmp_path / "other"
    graphnn_unet.cluster(folder, out, **QUICK)
    for seed in range(3):
        path = save(other / f"p{seed}.png", blob(radius=8, seed=seed)[0])
        os.utime(path, (1e9, 1e9))
    (other / "p1.png").write_bytes((folder / "p1.png").read_bytes())
    os.utime(other / "p1.png", (1e9, 1e9))
    result = graphnn_unet.cluster(other, out, **QUICK)
    assert (result.clustered, result.kept) == (["p0", "p2"], ["p1"])
    graphnn_unet.cluster(other, tmp_path / "fresh", **QUICK)
    assert maps(out) == maps(tmp_path / "fresh")


def test_files_that_are_no_label_maps_of_ours_are_not_replaced(folder, tmp_path):
    """The folder of the masks given with -o by mistake."""
    for seed in range(3):
        save(tmp_path / "masks" / f"p{seed}.png", blob(seed=seed)[1].astype(np.uint8))
    before = maps(tmp_path / "masks")
    with pytest.raises(RefusedError, match=r"names of label maps: for example p0\.png"):
        graphnn_unet.cluster(folder, tmp_path / "masks", **QUICK)
    assert maps(tmp_path / "masks") == before
    result = graphnn_unet.cluster(folder, tmp_path / "masks", **QUICK, overwrite=True)
    assert len(result.clustered) == 3


def test_overwrite_trains_shared_weights_anew(folder, tmp_path):
    options = {**OTHER, "method": "unsegmedgat_c", "shared_steps": 1, "steps_per_visit": 2}
    weights = tmp_path / "out" / "shared_weights.pt"
    graphnn_unet.cluster(folder, tmp_path / "out", **options)
    (tmp_path / "out" / "p0.png").unlink()
    first = weights.stat().st_mtime_ns
    graphnn_unet.cluster(folder, tmp_path / "out", **options)
    assert weights.stat().st_mtime_ns == first
    graphnn_unet.cluster(folder, tmp_path / "out", **options, overwrite=True)
    assert weights.stat().st_mtime_ns != first


def test_one_bad_image_costs_no_other(folder, tmp_path):
    (folder / "p1.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    with pytest.raises(CasesFailedError, match=r"p1: p1\.png cannot be read"):
        graphnn_unet.cluster(folder, out, **QUICK)
    assert sorted(path.name for path in out.glob("*.png")) == ["p0.png", "p2.png"]
    assert "p1,cluster," in (out / "failures.csv").read_text(encoding="utf-8")
    save(folder / "p1.png", blob(seed=1)[0])
    assert graphnn_unet.cluster(folder, out, **QUICK).clustered == ["p1"]
    assert not (out / "failures.csv").exists()


def test_nothing_but_bad_images_is_a_mistake_of_the_input(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(FaultsError, match="empty") as caught:
        graphnn_unet.cluster(tmp_path / "in", tmp_path / "out", **QUICK)
    assert caught.value.exit_status == 2
    with pytest.raises(RefusedError, match="input and output"):
        graphnn_unet.cluster(tmp_path / "in", tmp_path / "in", **QUICK)


def test_constant_picture_is_empty_with_a_flag(tmp_path):
    save(tmp_path / "in" / "a.png", np.full((40, 40, 3), 99, np.uint8))
    graphnn_unet.cluster(tmp_path / "in", tmp_path / "out", **QUICK)
    assert not read(tmp_path / "out" / "a.png").any()
    assert "empty" in rows(tmp_path / "out")[0]["flags"]


def test_parts_of_the_object_get_ids_of_their_own(tmp_path):
    rgb, mask = blob(60, 60, 20)
    rgb[(mask) & (np.arange(60) > 30)] = [60, 60, 160]
    save(tmp_path / "in" / "a.png", rgb)
    graphnn_unet.cluster(
        tmp_path / "in", tmp_path / "out", clusters=3, method="deepcut", two_stage=True,
        features="hand", cell=3, **{**QUICK, "steps": 60},
    )  # fmt: skip
    labels = read(tmp_path / "out" / "a.png")
    assert set(np.unique(labels)) == {0, 1, 2}


def test_no_function_before_the_evaluation_takes_a_truth():
    modules = [run, segment, slices]
    for module in modules:
        for _, function in inspect.getmembers(module, inspect.isfunction):
            if not function.__module__.startswith("graphnn_unet.clustering"):
                continue
            names = set(inspect.signature(function).parameters)
            assert not names & {"truth", "mask_path", "reference", "ground_truth", "target_mask"}


KILLED = """
import sys, graphnn_unet
graphnn_unet.cluster(sys.argv[1], sys.argv[2], side=56, cell=4, steps=20, n_workers=0)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    for seed in range(40):
        save(tmp_path / "in" / f"p{seed:02d}.png", blob(seed=seed)[0])
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "in"), str(out)])
    while len(list(out.glob("p*.png"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("p*.png")}
    assert 3 <= len(there) < 40
    result = graphnn_unet.cluster(tmp_path / "in", out, side=56, cell=4, steps=20, n_workers=0)
    assert len(result.clustered) + len(result.kept) == 40
    assert len(result.kept) >= 3
    for name in there:
        assert (out / name).stat().st_mtime_ns == there[name]
    assert not list(out.glob(".*partial*"))
    assert len(rows(out)) == 40


@pytest.mark.slow
def test_real_micrographs_are_segmented(tmp_path):
    data = real_data("EMDS5")
    names = sorted(path.stem for path in (data / "images").glob("*.jpg"))[1::21]
    ious = []
    for name in names:
        image = (data / "images" / f"{name}.jpg").read_bytes()
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.jpg").write_bytes(image)
    graphnn_unet.cluster(tmp_path / "in", tmp_path / "out", n_workers=0)
    for name in names:
        truth = read(data / "masks" / f"{name}.png") > 0
        ious.append(iou(read(tmp_path / "out" / f"{name}.png") > 0, truth))
    assert np.mean(ious) > 0.5


def test_a_map_that_a_user_saved_with_another_ending_stays(folder, tmp_path):
    out = tmp_path / "out"
    graphnn_unet.cluster(folder, out, **QUICK)
    (out / "p0.png").unlink()
    (out / "p0.nii.gz").write_bytes(b"corrected by hand")
    assert graphnn_unet.cluster(folder, out, **QUICK).clustered == ["p0"]
    assert (out / "p0.nii.gz").read_bytes() == b"corrected by hand"
