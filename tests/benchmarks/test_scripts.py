"""Scripts that measure, which no test runs: what they take from the package is there."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = [
    path.name for path in sorted(HERE.glob("[a-z]*.py")) if not path.name.startswith("test_")
]
SHELL = [path.name for path in sorted(HERE.glob("*.sh"))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_imports_of_a_script_are_there(name, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    assert callable(runpy.run_path(str(HERE / name), run_name="imported")["main"])


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("name", SHELL)
def test_shell_script_can_be_read(name):
    done = subprocess.run(["bash", "-n", name], cwd=HERE, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
