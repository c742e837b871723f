"""No file runs code, and a damaged one is named."""

import os
import pickle

import numpy as np
import pytest
import torch
from tiny_study import DATASET

from graphnn_unet.errors import InputError, MissingFileError, UnsafeFileError
from graphnn_unet.storage.safe_load import (
    load_checkpoint,
    load_properties,
    read_json,
    read_table,
)


class Canary:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


def stock_checkpoint() -> dict:
    """What nnU-Net's trainer saves: numpy scalars in its log and in the best score."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    logger = LocalLogger()
    for key in logger.my_fantastic_logging:
        logger.my_fantastic_logging[key] = [np.float32(0.5), np.float64(0.25)]
    return {
        "network_weights": {"weight": torch.ones(2, 2)},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": logger.get_checkpoint(),
        "_best_ema": np.float64(0.5),
        "current_epoch": 3,
        "init_args": {"plans": {"a": 1}, "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def test_a_checkpoint_of_stock_nnunet_loads(tmp_path):
    torch.save(stock_checkpoint(), tmp_path / "a.pth")
    content = load_checkpoint(tmp_path / "a.pth")
    assert content["_best_ema"] == 0.5
    assert content["logging"]["train_losses"] == [0.5, 0.25]
    assert torch.equal(content["network_weights"]["weight"], torch.ones(2, 2))


@pytest.mark.parametrize(
    "scalar", [np.float16(1), np.int32(1), np.int64(1), np.uint8(1), np.bool_(True), np.arange(3)]
)
def test_numpy_values_of_every_kind_load(tmp_path, scalar):
    torch.save({"network_weights": {}, "log": scalar}, tmp_path / "a.pth")
    assert np.array_equal(load_checkpoint(tmp_path / "a.pth")["log"], scalar)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_checkpoint_with_code_is_refused_and_does_not_run(tmp_path, canary, new_format):
    content = {**stock_checkpoint(), "extra": Canary(canary)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UnsafeFileError, match=r"a\.pth is refused") as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert caught.value.exit_status == 2
    assert not canary.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert canary.exists()  # the file would have run it


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_cut_checkpoint_is_named(tmp_path, share, new_format):
    path = tmp_path / "a.pth"
    torch.save(stock_checkpoint(), path, _use_new_zipfile_serialization=new_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.pth cannot be read.*cut off or damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"junk", b"a\n", b"\x80\x04G\x00.", b"0", b"}u."])
def test_bytes_that_were_never_a_checkpoint_are_named(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pth cannot be read"):
        load_checkpoint(tmp_path / "a.pth")


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.save({"weights": 1}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth is not a checkpoint"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(MissingFileError, match=r"b\.pth is missing"):
        load_checkpoint(tmp_path / "b.pth")


def properties() -> dict:
    return {
        "spacing": [np.float64(1.0), 1.0, 1.0],
        "shape": np.array([3, 4, 5]),
        "class_locations": {1: np.arange(12).reshape(3, 4), (1, 2): [], 2: np.zeros((0, 4), int)},
        "sitk_stuff": {"origin": (0.0, 0.0, 0.0)},
        "box": [[np.int64(0), 3]],
    }


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_properties_of_every_pickle_protocol_load(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(properties(), protocol))
    loaded = load_properties(tmp_path / "a.pkl")
    assert loaded["spacing"] == [1.0, 1.0, 1.0]
    assert np.array_equal(loaded["class_locations"][1], np.arange(12).reshape(3, 4))
    assert loaded["class_locations"][(1, 2)] == []


def test_properties_written_by_nnunet_load(tiny_home):
    folder = tiny_home / "preprocessed" / DATASET / "gnnunetPlans_3d_fullres"
    ours = load_properties(folder / "case_00.pkl")
    theirs = pickle.loads((folder / "case_00.pkl").read_bytes())
    assert ours.keys() == theirs.keys()
    for key, voxels in theirs["class_locations"].items():
        assert np.array_equal(ours["class_locations"][key], voxels)


def test_properties_with_code_are_refused_and_do_not_run(tmp_path, canary):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({**properties(), "x": Canary(canary)}))
    with pytest.raises(UnsafeFileError, match=r"a\.pkl is refused.*system"):
        load_properties(tmp_path / "a.pkl")
    assert not canary.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"ctorch.hub\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"ccollections\nnamedtuple\n(S'x'\ntR.",
    ],
)
def test_no_other_function_is_reached(tmp_path, stream):
    (tmp_path / "a.pkl").write_bytes(stream)
    with pytest.raises(UnsafeFileError, match="asks for"):
        load_properties(tmp_path / "a.pkl")


def test_properties_cut_anywhere_are_named(tmp_path):
    content = pickle.dumps(properties())
    for length in range(0, len(content), 3):
        (tmp_path / "a.pkl").write_bytes(content[:length])
        with pytest.raises((InputError, UnsafeFileError), match=r"a\.pkl"):
            load_properties(tmp_path / "a.pkl")


def test_properties_with_changed_bytes_are_read_or_named(tmp_path):
    content = pickle.dumps(properties())
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(300):
        changed = bytearray(content)
        changed[rng.integers(len(changed))] = rng.integers(256)
        (tmp_path / "a.pkl").write_bytes(changed)
        try:
            load_properties(tmp_path / "a.pkl")
        except (InputError, UnsafeFileError) as error:
            assert "a.pkl" in error.line  # noqa: PT017  # both outcomes are right
            named += 1
    assert named > 50


def test_properties_must_be_a_table(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match="holds a list"):
        load_properties(tmp_path / "a.pkl")
    with pytest.raises(MissingFileError):
        load_properties(tmp_path / "b.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1', r"a\.json is not valid JSON: line 1, column 8"),
        (b'{"a":\n 1,}', r"line 2, column [34]"),
        (b"\xff\xe9", r"a\.json is not a text file"),
        (b"[" * 100_000, r"a\.json cannot be read"),
    ],
)
def test_a_damaged_json_file_is_named_with_line_and_column(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1' + b"0" * 5000 + b"}", r"a\.json cannot be read: .*digits"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, r"a\.json cannot be read: .*nested too deeply"),
    ],
)
def test_json_that_python_reads_badly_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "a.json")


def test_a_folder_in_the_place_of_a_file_and_a_list_in_that_of_a_table_are_named(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(InputError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(InputError, match=r"b\.json holds no table"):
        read_table(tmp_path / "b.json")
