"""Batch i follows from the seed and i alone, whoever loads it."""

import builtins
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import blosc2
import numpy as np
import psutil
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_study import DATASET

from graphnn_unet.data import patch_dataset as module
from graphnn_unet.data.patch_dataset import (
    PatchDataset,
    PatchSettings,
    StepLoader,
    StoredCase,
    collate,
    default_loader_workers,
    seeded,
)
from graphnn_unet.errors import InputError

LABELED, UNLABELED = 4, 2
SLOTS = list(range(LABELED + UNLABELED))


def plain(image, segmentation):
    return {"image": image, "segmentation": segmentation}


def noisy(image, segmentation):
    """Draws from all global generators, as nnU-Net's transforms do."""
    shift = random.random() + np.random.random() + float(torch.rand(1))  # noqa: NPY002
    return {"image": image + shift + torch.randn(image.shape), "segmentation": segmentation}


def settings_for(patch=(12, 12, 12), initial=None, transform=noisy, **keywords) -> PatchSettings:
    return PatchSettings(patch, initial or patch, transform, **keywords)


@pytest.fixture(scope="module")
def cases(tiny_home) -> dict[str, list[StoredCase]]:
    folder = tiny_home / "preprocessed" / DATASET
    stored_cases = {}
    for name in ("3d_fullres", "2d"):
        stored = folder / f"gnnunetPlans_{name}"
        unlabeled = folder / f"gnnunetPlans_{name}__unlabeled"
        stored_cases[name] = [StoredCase(f"case_{n:02d}", stored, True) for n in range(4)]
        stored_cases[f"{name} unlabeled"] = [
            *(StoredCase(f"case_{n:02d}", unlabeled, False) for n in range(4, 7)),
            StoredCase("case_03", stored, False),
        ]
    return stored_cases


def dataset_of(cases, settings=None, seed=7, configuration="3d_fullres") -> PatchDataset:
    return PatchDataset(
        cases[configuration], cases[f"{configuration} unlabeled"], LABELED, UNLABELED,
        settings or settings_for(), seed,
    )  # fmt: skip


def batches(dataset, start=0, stop=6, n_workers=0, slots=None) -> list[dict]:
    return list(StepLoader(dataset, lambda _: slots or SLOTS, start, stop, n_workers=n_workers))


def assert_same(first: list[dict], other: list[dict]) -> None:
    assert len(first) == len(other)
    for a, b in zip(first, other, strict=True):
        assert a["keys"] == b["keys"]
        assert torch.equal(a["data"], b["data"])
        assert torch.equal(a["target"], b["target"])


# ----------------------------------------------------------------------- seed and step alone


def test_a_batch_has_the_labeled_images_first(cases):
    (batch,) = batches(dataset_of(cases), stop=1)
    assert batch["data"].shape == (6, 1, 12, 12, 12)
    assert batch["data"].dtype == torch.float32
    assert batch["target"].shape == (4, 1, 12, 12, 12)
    assert len(batch["keys"]) == 6
    assert set(batch["keys"][:4]) <= {f"case_{n:02d}" for n in range(4)}
    assert set(batch["keys"][4:]) <= {"case_03", "case_04", "case_05", "case_06"}


@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_load_the_same_batches(cases, n_workers):
    dataset = dataset_of(cases)
    assert_same(batches(dataset, n_workers=n_workers), batches(dataset))


@pytest.mark.parametrize(("start", "n_workers"), [(1, 0), (4, 0), (3, 2)])
def test_a_run_that_starts_later_has_the_same_batches(cases, start, n_workers):
    dataset = dataset_of(cases)
    assert_same(batches(dataset, start=start, n_workers=n_workers), batches(dataset)[start:])


def test_the_state_of_the_process_does_not_matter(cases):
    reference = batches(dataset_of(cases))
    torch.manual_seed(99)
    np.random.seed(5)  # noqa: NPY002
    other = dataset_of(cases)
    other[(100, 0)]
    other[(3, 5)]
    assert_same(batches(other), reference)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_loading_leaves_the_state_of_the_process(cases, n_workers):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    expected = float(torch.rand(1)), float(np.random.random()), random.random()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    batches(dataset_of(cases), stop=2, n_workers=n_workers)
    drawn = float(torch.rand(1)), float(np.random.random()), random.random()  # noqa: NPY002
    assert drawn == expected


def test_augmentation_has_one_thread_whatever_the_process_has(cases):
    """Sums of several threads differ in their last bits."""
    counts = []

    def count(image, segmentation):
        counts.append(torch.get_num_threads())
        return plain(image, segmentation)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches(dataset_of(cases, settings_for(transform=count)), stop=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert counts == [1] * 6


def test_seeds_steps_and_slots_differ(cases):
    dataset, other = dataset_of(cases), dataset_of(cases, seed=8)
    images = [
        dataset[(0, 0)]["image"], dataset[(0, 1)]["image"], dataset[(1, 0)]["image"],
        dataset[(0, 4)]["image"], other[(0, 0)]["image"],
    ]  # fmt: skip
    for i, image in enumerate(images):
        assert not any(torch.equal(image, two) for two in images[i + 1 :])


def test_processes_that_share_a_step_load_its_parts(cases):
    dataset = dataset_of(cases)
    whole = batches(dataset, stop=3)
    for part in ([0, 2, 4], [1, 3, 5]):
        for batch, full in zip(batches(dataset, stop=3, slots=part), whole, strict=True):
            assert torch.equal(batch["data"], full["data"][part])
            assert torch.equal(batch["target"], full["target"][part[:2]])


def test_labeled_slots_alone_have_no_unlabeled_images(cases):
    (batch,) = batches(dataset_of(cases), stop=1, slots=[0, 1, 2, 3])
    assert batch["data"].shape[0] == batch["target"].shape[0] == 4


# ----------------------------------------------------------------------- which case, which crop


@pytest.mark.parametrize(("slots", "n"), [(range(LABELED), 4), (range(LABELED, 6), 4)])
def test_every_case_comes_once_before_any_comes_again(cases, slots, n):
    dataset = dataset_of(cases)
    order = [dataset.case_at(step, slot).case_id for step in range(24) for slot in slots]
    for turn in range(len(order) // n):
        assert len(set(order[turn * n : (turn + 1) * n])) == n
    assert len({tuple(order[i * n : (i + 1) * n]) for i in range(len(order) // n)}) > 1


def test_turns_go_on_over_the_ends_of_steps(cases):
    """Three cases in steps of two: no case is left out at the seam."""
    dataset = PatchDataset(cases["3d_fullres"][:3], [], 2, 0, settings_for(), 0)
    order = [dataset.case_at(step, slot).case_id for step in range(6) for slot in range(2)]
    for turn in range(4):
        assert len(set(order[3 * turn : 3 * turn + 3])) == 3


@pytest.mark.parametrize(("n", "share", "forced"), [(2, 0.33, 1), (4, 0.33, 1), (12, 0.33, 4),
                                                    (4, 0.0, 0), (4, 1.0, 4)])  # fmt: skip
def test_as_many_patches_as_in_nnunet_must_hold_foreground(cases, n, share, forced):
    """nnU-Net: those of the batch from ``round(batch_size * (1 - share))`` on."""
    dataset = PatchDataset(cases["3d_fullres"], [], n, 0, settings_for(foreground_share=share), 0)
    assert forced == sum(not i < round(n * (1 - share)) for i in range(n))
    wanted = [[dataset._wants_foreground(step, slot) for slot in range(n)] for step in range(n)]
    assert [sum(row) for row in wanted] == [forced] * n
    assert [sum(column) for column in zip(*wanted, strict=True)] == [forced] * n


def test_forced_patches_hold_foreground_of_every_class_in_turn(cases):
    small = settings_for((4, 4, 4), transform=plain, foreground_share=1.0)
    dataset = dataset_of(cases, small)
    targets = [dataset[(step, slot)]["target"] for step in range(20) for slot in range(4)]
    assert all((target > 0).any() for target in targets)
    assert 15 < sum(bool((target == 2).any()) for target in targets) < 80
    free = settings_for((4, 4, 4), transform=plain, foreground_share=0.0)
    targets = [dataset_of(cases, free)[(step, 0)]["target"] for step in range(40)]
    assert 0 < sum(bool((target > 0).any()) for target in targets) < 40


def test_image_and_label_are_cut_at_the_same_place(cases):
    dataset = dataset_of(cases, settings_for((6, 6, 6), transform=plain))
    for step in range(4):
        sample = dataset[(step, 0)]
        case = next(c for c in cases["3d_fullres"] if c.case_id == sample["case"])
        image, label = case.image()[0], case.label()[0]
        windows = np.lib.stride_tricks.sliding_window_view(image, (6, 6, 6))
        (place,) = np.argwhere((windows == sample["image"][0].numpy()).all(axis=(3, 4, 5)))
        z, y, x = place
        expected = label[z : z + 6, y : y + 6, x : x + 6]
        assert np.array_equal(sample["target"][0].numpy(), expected)


@pytest.mark.parametrize(("initial", "low"), [(10, -2), (9, -1), (6, 0)])
def test_crops_reach_every_voxel_and_no_further_than_the_patch_needs(cases, initial, low):
    """The middle 6 of the crop lie inside the image and reach each of its ends."""
    dataset = dataset_of(cases, settings_for((6, 6, 6), (initial,) * 3))
    generator = np.random.default_rng(0)
    draw = lambda: dataset._box((18, 20, 22), (initial,) * 3, None, generator)  # noqa: E731
    starts = np.array([[start for start, _ in draw()] for _ in range(2000)])
    assert starts.min(0).tolist() == [low] * 3
    assert starts.max(0).tolist() == [18 - 6 + low, 20 - 6 + low, 22 - 6 + low]


@pytest.mark.parametrize("center", [[0, 0, 0], [17, 19, 21], [9, 10, 11]])
def test_the_patch_holds_the_voxel_it_is_made_for(cases, center):
    dataset = dataset_of(cases, settings_for((6, 6, 6), (10, 10, 10)))
    box = dataset._box((18, 20, 22), (10,) * 3, np.array(center), np.random.default_rng(0))
    for axis in range(3):
        low, high = box[axis]
        assert high - low == 10
        assert low + 2 <= center[axis] < high - 2
        assert -2 <= low <= (18, 20, 22)[axis] - 8


def test_unlabeled_patches_may_have_an_augmentation_of_their_own(cases):
    """It starts from a crop of the final size, so voxels keep their place."""

    def cropped(image, segmentation):
        return {"image": image[:, 2:-2, 2:-2, 2:-2] + 100, "segmentation": segmentation}

    settings = settings_for((6, 6, 6), (10, 10, 10), cropped, unlabeled_transform=plain)
    dataset = dataset_of(cases, settings)
    assert (dataset[(0, 0)]["image"] > 50).all()
    for step in range(5):
        sample = dataset[(step, LABELED)]
        case = next(c for c in cases["3d_fullres unlabeled"] if c.case_id == sample["case"])
        windows = np.lib.stride_tricks.sliding_window_view(case.image()[0], (6, 6, 6))
        assert (windows == sample["image"][0].numpy()).all(axis=(3, 4, 5)).any()


def test_images_smaller_than_the_patch_are_padded(cases):
    dataset = dataset_of(cases, settings_for((32, 32, 32), transform=plain))
    sample = dataset[(0, 0)]
    assert sample["image"].shape == (1, 32, 32, 32)
    outside = sample["target"][0] == -1
    assert int((~outside).sum()) == 18 * 20 * 22
    assert (sample["image"][0][outside] == 0).all()
    whole = next(c for c in cases["3d_fullres"] if c.case_id == sample["case"]).image()[0]
    assert float(sample["image"].sum()) == pytest.approx(float(whole.sum()), abs=1)
    assert dataset[(0, 5)]["image"].shape == (1, 32, 32, 32)


def test_a_patch_of_a_slice_has_two_axes(cases):
    settings = settings_for((12, 16), transform=plain, foreground_share=1.0)
    dataset = dataset_of(cases, settings, configuration="2d")
    slices = set()
    for step in range(8):
        for slot in SLOTS:
            sample = dataset[(step, slot)]
            assert sample["image"].shape == (1, 12, 16)
            if slot < LABELED:
                assert sample["target"].shape == (1, 12, 16)
                assert (sample["target"] > 0).any()
        slices.add(float(sample["image"].mean()))
    assert len(slices) == 8
    (batch,) = batches(dataset, stop=1)
    assert batch["data"].shape == (6, 1, 12, 16)


def test_other_patches_lie_on_annotated_voxels_where_there_is_an_ignore_label(cases):
    annotated = (-1, 0, 1, 2)
    dataset = dataset_of(cases, settings_for(annotated_key=annotated))
    locations = {
        1: np.array([[0, 5, 5, 5]]), 2: np.zeros((0, 4), int), annotated: np.array([[0, 1, 2, 3]]),
    }  # fmt: skip
    generator = np.random.default_rng(0)
    assert dataset._center(locations, generator, foreground=True).tolist() == [5, 5, 5]
    assert dataset._center(locations, generator, foreground=False).tolist() == [1, 2, 3]
    only = {1: [], annotated: np.array([[0, 1, 2, 3]])}
    assert dataset._center(only, generator, foreground=True).tolist() == [1, 2, 3]
    assert dataset._center({1: [], annotated: []}, generator, foreground=True) is None
    without = dataset_of(cases)
    assert without._center({1: np.array([[0, 5, 5, 5]])}, generator, foreground=False) is None


def test_every_class_is_as_likely_however_large_it_is(cases):
    dataset = dataset_of(cases)
    locations = {1: np.array([[0, 1, 1, 1]] * 990), 2: np.array([[0, 2, 2, 2]] * 10), 3: []}
    generator = np.random.default_rng(0)
    centers = [int(dataset._center(locations, generator, True)[0]) for _ in range(1000)]
    assert 400 < centers.count(2) < 600


# -------------------------------------------------------------------- labels stay closed

_OPENED: list[str] = []
_LISTENING = threading.Event()


def _listen(event: str, arguments: tuple) -> None:
    if event == "open" and _LISTENING.is_set() and isinstance(arguments[0], (str, bytes)):
        _OPENED.append(os.fsdecode(arguments[0]))


@pytest.fixture
def opened(monkeypatch):
    """Names of all files opened from Python or by blosc2."""
    if _listen not in _HOOKS:
        sys.addaudithook(_listen)
        _HOOKS.append(_listen)
    real = blosc2.open

    def noted(*arguments, **keywords):
        _OPENED.append(str(keywords.get("urlpath") or arguments[0]))
        return real(*arguments, **keywords)

    monkeypatch.setattr(blosc2, "open", noted)
    _OPENED.clear()
    _LISTENING.set()
    yield _OPENED
    _LISTENING.clear()


_HOOKS: list = []


@pytest.mark.parametrize("mask_outside", [False, True])
def test_of_an_unlabeled_case_only_the_image_is_opened(cases, opened, tiny_home, mask_outside):
    dataset = dataset_of(cases, settings_for(mask_outside=mask_outside))
    for step in range(6):
        for slot in (4, 5):
            sample = dataset[(step, slot)]
            assert sample["target"] is None
    inside = {Path(name).name for name in opened if str(tiny_home) in name}
    assert inside == {"case_03.b2nd", "case_04.b2nd", "case_05.b2nd", "case_06.b2nd"}
    assert builtins.open is open


def test_of_a_labeled_case_the_label_is_opened_too(cases, opened, tiny_home):
    """The listener of the test above hears what it should."""
    dataset_of(cases)[(0, 0)]
    inside = {Path(name).name.partition("_seg")[2] for name in opened if str(tiny_home) in name}
    assert inside == {"", ".b2nd"}
    assert any(name.endswith(".pkl") for name in opened)


def test_unlabeled_images_get_nnunets_mask_of_voxels_outside(cases):
    seen = []

    def keep(image, segmentation):
        seen.append((image, segmentation))
        return plain(image, segmentation)

    dataset = dataset_of(cases, settings_for((24, 24, 24), transform=keep, mask_outside=True))
    dataset[(0, 4)]
    image, mask = seen[0]
    assert mask.dtype == torch.int16
    assert torch.equal(mask[0] == -1, image[0] == 0)
    assert (mask == -1).any()
    dataset_of(cases, settings_for(transform=keep))[(0, 4)]
    assert (seen[1][1] == 0).all()


# --------------------------------------------------------------------- workers that die


def loader_workers() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children()
        if "forkserver" not in " ".join(child.cmdline()) and "resource_tracker" not in
        " ".join(child.cmdline())
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_worker_is_replaced_and_the_batches_stay_the_same(cases, caplog):
    dataset = dataset_of(cases)
    reference = batches(dataset, stop=12)
    before = set(loader_workers())
    loaded = []
    for batch in StepLoader(dataset, lambda _: SLOTS, 0, 12, n_workers=2):
        loaded.append(batch)
        if len(loaded) == 2:
            workers = set(loader_workers()) - before
            assert len(workers) == 2
            for worker in workers:
                worker.kill()
            time.sleep(0.3)  # nothing is raised in the middle of a training step
    assert_same(loaded, reference)
    assert "workers are started again at step" in caplog.text


def test_the_signal_of_dying_children_stays_as_it_was(cases):
    before = signal.getsignal(signal.SIGCHLD)
    loader = iter(StepLoader(dataset_of(cases), lambda _: SLOTS, 0, 4, n_workers=1))
    next(loader)
    assert signal.getsignal(signal.SIGCHLD) is before
    loader.close()


def test_workers_that_keep_dying_end_the_training(cases, monkeypatch):
    starts = []

    def dying(_self, start):
        starts.append(start)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
        yield

    monkeypatch.setattr(StepLoader, "_loader", dying)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        batches(dataset_of(cases))
    assert starts == [0] * (module.MAX_WORKER_RESTARTS + 1)


def test_other_errors_are_not_tried_again(cases):
    def fail(image, segmentation):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        batches(dataset_of(cases, settings_for(transform=fail)))


ORPHANS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_patch_dataset import *
folder = Path(sys.argv[2])
stored = [StoredCase(f"case_{n:02d}", folder, True) for n in range(4)]
dataset = PatchDataset(stored, [], 4, 0, settings_for(), 0)
for batch in StepLoader(dataset, lambda _: range(4), 0, 10**9, n_workers=2):
    print(*(worker.pid for worker in loader_workers()), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal")
def test_workers_are_gone_soon_after_the_training_was_killed(tiny_home, tmp_path):
    import subprocess

    (tmp_path / "training.py").write_text(ORPHANS)
    folder = tiny_home / "preprocessed" / DATASET / "gnnunetPlans_3d_fullres"
    training = subprocess.Popen(
        [sys.executable, str(tmp_path / "training.py"), str(Path(__file__).parent), str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    workers = [int(text) for text in training.stdout.readline().split()]
    assert len(workers) == 2
    training.kill()
    training.wait()
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize("name", ["case_02.b2nd", "case_02_seg.b2nd", "case_02.pkl"])
def test_a_file_damaged_during_training_is_named_in_one_line(tiny_copy, n_workers, name):
    folder = tiny_copy / "preprocessed" / DATASET / "gnnunetPlans_3d_fullres"
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    stored = [StoredCase(f"case_{n:02d}", folder, True) for n in range(4)]
    dataset = PatchDataset(stored, [], 4, 0, settings_for(), 0)
    with pytest.raises(InputError, match=rf"{name} cannot be read") as caught:
        batches(dataset, slots=[0, 1, 2, 3], n_workers=n_workers)
    assert "\n" not in caught.value.line
    assert "Run gnnunet_plan_and_preprocess again" in caught.value.line


# ------------------------------------------------------------------------------- pieces


def test_arrays_are_those_of_nnunet(cases, tiny_home):
    case = cases["3d_fullres"][1]
    data, seg, _, properties = nnUNetDatasetBlosc2(str(case.folder)).load_case(case.case_id)
    assert np.array_equal(case.image()[:], data[:])
    assert np.array_equal(case.label()[:], seg[:])
    assert case.properties().keys() == properties.keys()


def test_a_seeded_block_leaves_no_trace_after_an_error():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError), seeded(5):
        raise ZeroDivisionError
    assert torch.equal(torch.rand(2), expected)


def test_a_batch_of_unlabeled_images_has_no_target():
    image = torch.zeros(1, 2, 2)
    sample = {"image": image, "target": None, "case": "a", "place": ((0, 0), (), False)}
    batch = collate([sample] * 2)
    assert batch["target"] is None
    assert batch["keys"] == ["a", "a"]


def test_waiting_is_measured(cases):
    def slow(image, segmentation):
        time.sleep(0.02)
        return plain(image, segmentation)

    loader = StepLoader(
        dataset_of(cases, settings_for(transform=slow)), lambda _: SLOTS, 0, 2, n_workers=0
    )
    assert len(loader) == 2
    assert len(list(loader)) == 2
    assert 0.24 <= loader.waited_s < 5


@pytest.mark.parametrize(
    ("cores", "device", "world_size", "workers"),
    [(1, "cpu", 1, 0), (8, "cpu", 1, 1), (16, "cuda", 1, 12), (8, "cuda", 1, 7), (8, "cuda", 4, 1),
     (2, "cuda", 4, 1)],
)  # fmt: skip
def test_loader_processes_follow_the_machine(monkeypatch, cores, device, world_size, workers):
    monkeypatch.delenv("nnUNet_n_proc_DA")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on Windows and macOS
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert default_loader_workers(torch.device(device), world_size) == workers


def test_nnunets_variable_sets_the_loader_processes(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "5")
    assert default_loader_workers(torch.device("cpu"), 1) == 5
    for text in ("many", "-1", "1.5", ""):
        monkeypatch.setenv("nnUNet_n_proc_DA", text)
        with pytest.raises(InputError, match="nnUNet_n_proc_DA"):
            default_loader_workers(torch.device("cpu"), 1)
