import pickle

import pytest

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.user_code import MODULE_PREFIX, load_class

THING = "class Thing:\n    value = {value}\n\nnumber = 3\n"


def written(folder, value: int):
    folder.mkdir(exist_ok=True)
    path = folder / "mine.py"
    path.write_text(THING.format(value=value))
    return path


def test_two_files_of_one_name_do_not_mix(tmp_path):
    first = load_class(written(tmp_path / "a", 1), "Thing", "trainer")
    second = load_class(written(tmp_path / "b", 2), "Thing", "trainer")
    assert (first.value, second.value) == (1, 2)
    assert first.__module__ != second.__module__
    assert pickle.loads(pickle.dumps(first)) is first
    assert pickle.loads(pickle.dumps(second)) is second


def test_a_file_that_changed_is_read_again(tmp_path):
    assert load_class(written(tmp_path, 1), "Thing", "trainer").value == 1
    written(tmp_path, 12)  # of another length: Python compares size and time of the source
    assert load_class(tmp_path / "mine.py", "Thing", "trainer").value == 12


def test_installed_modules_are_taken_by_name():
    assert load_class("collections", "Counter", "encoder").__name__ == "Counter"


def test_what_is_not_there_is_said_in_one_line(tmp_path):
    path = written(tmp_path, 1)
    with pytest.raises(MissingFileError, match=r"trainer file .*none\.py is missing"):
        load_class(tmp_path / "none.py", "Thing", "trainer")
    for name in ("Other", "number"):
        with pytest.raises(InputError, match=rf"mine\.py has no class {name}"):
            load_class(path, name, "trainer")
    with pytest.raises(InputError, match="encoder no_such_module cannot be imported"):
        load_class("no_such_module", "Thing", "encoder")


def test_broken_file_tells_its_error_and_leaves_no_module(tmp_path):
    import sys

    path = tmp_path / "broken.py"
    path.write_text("value = 1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(InputError, match="cannot be imported: ZeroDivisionError: division by zero"):
        load_class(path, "Thing", "trainer")
    assert not {name for name in set(sys.modules) - before if name.startswith(MODULE_PREFIX)}
