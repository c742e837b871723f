"""Label maps, probabilities and entropy from logits: as nnU-Net makes them, in less memory."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as stock_export,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from graphnn_unet.prediction.export_logits import export_gb, logits_to_labels


def case(
    *,
    grid=(6, 9, 10),
    cropped=(9, 12, 11),
    whole=(12, 14, 13),
    offset=(1, 2, 0),
    spacing=(1.0, 1.0, 1.0),
    target=(1.5, 1.3, 1.1),
    forward=(0, 1, 2),
    n_outputs=4,
    regions=False,
    resampling="resample_data_or_seg_to_shape",
    seed=0,
    dtype=np.float16,
):
    """Arguments of an export; sizes and target in the network's order, spacing in the file's."""
    backward = [forward.index(i) for i in range(3)]
    numbers = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    plans = PlansManager({
        "dataset_name": "Dataset001_X", "plans_name": "p", "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager", "transpose_forward": list(forward),
        "transpose_backward": backward, "configurations": {"c": {
            "spacing": list(target), "patch_size": [8] * len(target), "batch_size": 2,
            "resampling_fn_probabilities": resampling,
            "resampling_fn_probabilities_kwargs": numbers if "data_or_seg" in resampling else
            {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False},
            "architecture": {"network_class_name": "x", "arch_kwargs": {},
                             "_kw_requires_import": []},
        }},
    })  # fmt: skip
    labels = {"background": 0, **{f"l{i}": i for i in range(1, n_outputs)}}
    description = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz"}
    if regions:
        ids = list(range(1, n_outputs + 1))
        named = {f"r{i}": ids[i:] for i in range(n_outputs)}
        description |= {"labels": {"background": 0, **named}, "regions_class_order": ids[::-1]}
    properties = {
        "spacing": list(spacing),
        "shape_before_cropping": tuple(whole),
        "shape_after_cropping_and_before_resampling": tuple(cropped),
        "bbox_used_for_cropping": [[o, o + n] for o, n in zip(offset, cropped, strict=True)],
    }
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (n_outputs, *grid)).astype(dtype))
    manager = plans.get_label_manager(description)
    return logits, properties, plans, plans.get_configuration("c"), manager


def stock(logits, properties, plans, configuration, manager, probabilities=False):
    return stock_export(
        logits.clone(), plans, configuration, manager, properties, probabilities, 1
    )  # fmt: skip


CASES = {
    "resampled and cropped": {},
    "same grid": {"grid": (9, 12, 11)},
    "made smaller": {"grid": (13, 15, 12)},
    "no crop": {"whole": (9, 12, 11), "offset": (0, 0, 0)},
    "anisotropic": {"spacing": (5.0, 1.0, 1.0), "target": (6.0, 1.3, 1.1), "grid": (7, 9, 10)},
    "anisotropic target": {"spacing": (2.0, 1.0, 1.0), "target": (4.0, 1.0, 1.0)},
    "transposed": {"forward": (2, 0, 1), "spacing": (1.0, 1.3, 1.7)},
    "transposed the other way": {"forward": (1, 2, 0), "spacing": (3.0, 1.0, 0.9)},
    "2d": {"target": (1.3, 1.1), "grid": (9, 9, 10)},
    "2d transposed": {"target": (1.3, 1.1), "grid": (9, 9, 10), "forward": (1, 0, 2)},
    "float32": {"dtype": np.float32},
    "two classes": {"n_outputs": 2},
    "many classes": {"n_outputs": 260, "grid": (4, 5, 5), "cropped": (5, 6, 6)},
    "torch resampling": {"resampling": "resample_torch_fornnunet"},
    "torch resampling, anisotropic": {
        "resampling": "resample_torch_fornnunet", "spacing": (5.0, 1.0, 1.0),
        "target": (6.0, 1.3, 1.1), "dtype": np.float32,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("regions", [False, True])
def test_labels_are_nnunets_and_probabilities_are_close(name, regions):
    arguments = case(**CASES[name], regions=regions)
    expected = stock(*arguments)
    exported = logits_to_labels(*arguments)
    assert exported.labels.dtype == expected.dtype
    np.testing.assert_array_equal(exported.labels, expected)
    assert len(np.unique(expected)) > 1
    _, probabilities = stock(*arguments, probabilities=True)
    both = logits_to_labels(*arguments, with_probabilities=True, with_entropy=True)
    np.testing.assert_array_equal(both.labels, expected)  # whatever else is asked for
    assert both.probabilities.dtype == np.float32
    np.testing.assert_allclose(both.probabilities, probabilities, atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(
    forward=st.sampled_from(list(itertools.permutations(range(3)))),
    grid=st.tuples(*[st.integers(3, 8)] * 3),
    cropped=st.tuples(*[st.integers(3, 8)] * 3),
    offset=st.tuples(*[st.integers(0, 2)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 4.0])] * 3),
    target=st.tuples(*[st.sampled_from([0.8, 1.0, 4.0])] * 3),
    regions=st.booleans(),
    seed=st.integers(0, 99),
)
def test_labels_are_nnunets_for_any_geometry(seed, cropped, offset, **options):
    whole = tuple(n + o + 1 for n, o in zip(cropped, offset, strict=True))
    arguments = case(cropped=cropped, offset=offset, whole=whole, seed=seed, **options)
    np.testing.assert_array_equal(logits_to_labels(*arguments).labels, stock(*arguments))


def test_equal_logits_go_to_the_first_class_and_tiny_ones_to_no_region():
    arguments = case(grid=(9, 12, 11), regions=False)
    arguments[0][:] = 1
    assert not logits_to_labels(*arguments).labels.any()
    logits, *rest = case(grid=(9, 12, 11), regions=True)
    logits[:] = 6e-8  # a sigmoid of 0.5 in float32
    assert not logits_to_labels(logits, *rest).labels.any()
    np.testing.assert_array_equal(logits_to_labels(logits, *rest).labels, stock(logits, *rest))


@pytest.mark.parametrize("scale", [0.3, 3.0, 40.0])
def test_entropy_is_that_of_the_formula(scale):
    logits, properties, *rest = case(grid=(9, 12, 11))
    logits = logits.float() * scale / 3
    exported = logits_to_labels(logits, properties, *rest, with_entropy=True)
    p = torch.softmax(logits.double(), 0)
    expected = -(torch.xlogy(p, p)).sum(0).numpy() / np.log(len(p))
    box = tuple(slice(*b) for b in properties["bbox_used_for_cropping"])
    np.testing.assert_allclose(exported.entropy[box], expected, atol=2e-6)
    outside = np.ones(exported.entropy.shape, bool)
    outside[box] = False
    assert not exported.entropy[outside].any()
    assert exported.probabilities is None


def test_entropy_of_regions_is_the_mean_of_their_own():
    logits, properties, *rest = case(grid=(9, 12, 11), regions=True)
    exported = logits_to_labels(logits, properties, *rest, with_entropy=True)
    p = torch.sigmoid(logits.double())
    bits = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / np.log(2)
    box = tuple(slice(*b) for b in properties["bbox_used_for_cropping"])
    np.testing.assert_allclose(exported.entropy[box], bits.mean(0).numpy(), atol=1e-5)


def test_entropy_is_0_for_one_certain_class_and_1_for_equal_ones():
    logits, *rest = case(grid=(9, 12, 11), cropped=(9, 12, 11), whole=(9, 12, 11),
                         offset=(0, 0, 0))  # fmt: skip
    logits[:] = 0
    np.testing.assert_allclose(
        logits_to_labels(logits, *rest, with_entropy=True).entropy, 1, atol=1e-6
    )
    logits[2] = 1e4
    assert not logits_to_labels(logits, *rest, with_entropy=True).entropy.any()


def test_logits_are_not_changed():
    arguments = case(grid=(9, 12, 11))  # no resampling: nnU-Net hands the same array back
    before = arguments[0].clone()
    logits_to_labels(*arguments, with_probabilities=True, with_entropy=True)
    assert torch.equal(arguments[0], before)


_MEASURE = """
import json, sys
import numpy as np
sys.path[:0] = {path!r}
import torch
from test_export_logits import case, export_gb, logits_to_labels, stock
torch.set_num_threads(1)

def peak(function, *arguments, **options):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    def status(key):
        line = next(l for l in open("/proc/self/status") if l.startswith(key))
        return int(line.split()[1]) * 1024
    before = status("VmRSS")
    function(*arguments, **options)
    return status("VmHWM") - before

small, big = case(n_outputs=8), []
for geometry in (dict(), dict(spacing=(5.0, 1.0, 1.0), target=(6.0, 1.3, 1.1))):
    n = 72
    arguments = case(n_outputs=8, grid=(60, 56, 56), cropped=(n,) * 3, whole=(n,) * 3,
                     offset=(0,) * 3, **geometry)
    for function in (stock, logits_to_labels):
        function(*small)
    stated = export_gb(arguments[1], (60, 56, 56), *arguments[2:4], 8) * 2**30
    stated -= arguments[0].nbytes  # they were there before
    big.append((peak(stock, *arguments), peak(logits_to_labels, *arguments), stated))
print(json.dumps(big))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_label_export_takes_less_memory_than_nnunet_and_not_more_than_stated():
    code = _MEASURE.format(path=[__file__.rpartition("/")[0], *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for theirs, ours, stated in json.loads(done.stdout.splitlines()[-1]):
        assert ours < 0.75 * theirs
        assert ours < stated


def test_stated_memory_grows_with_what_is_asked_for():
    _, properties, plans, configuration, _ = case()
    arguments = properties, (6, 9, 10), plans, configuration
    few, many = (export_gb(*arguments, n) for n in (2, 100))
    image, grid = 12 * 14 * 13, 6 * 9 * 10
    assert many - few == pytest.approx(98 * 2 * grid / 2**30)  # the logits themselves
    with_few, with_many = (export_gb(*arguments, n, with_probabilities=True) for n in (2, 100))
    assert with_many - with_few == pytest.approx(98 * (2 * grid + 4 * image) / 2**30)
    assert with_few > few
    by_rows = export_gb(*arguments, 100, n_rows=3)
    assert many - by_rows == pytest.approx(100 * 2 * grid / 2 / 2**30)  # three of six rows
    assert export_gb(*arguments, 100, n_rows=7) == many
    assert export_gb(*arguments, 2, with_entropy=True) > few
