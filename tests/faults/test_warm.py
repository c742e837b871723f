"""A command that was forked does what one in a new interpreter does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and names them in /proc")

SCRIPT = """
import atexit, multiprocessing, os, sys
def place(number): return number, __name__, os.environ["FAULT"]
if __name__ == "__main__":
    print(sys.argv[1:], os.getcwd(), sorted(os.environ), sys.stdin.read(), flush=True)
    atexit.register(print, "the end")
    for how in ("spawn", "forkserver") if sys.argv[1] == "work" else ():
        with multiprocessing.get_context(how).Pool(1) as pool:
            print(how, pool.map(place, range(2)), flush=True)
    if sys.argv[1] == "fail":
        raise ValueError("failed")
    sys.exit("refused" if sys.argv[1] == "refuse" else None)
"""
CALLER = """
import json, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import _warm
script, folder = Path(sys.argv[2]), Path(sys.argv[3])
for word in sys.argv[4:]:
    variables = {"FAULT": word, "LANG": "C.UTF-8"}
    if Path(sys.argv[0]).name == "warm":
        process = _warm.start(script, [word, "b"], folder=folder, environment=variables)
    else:
        process = subprocess.Popen(
            [sys.executable, script, word, "b"], cwd=folder, env=variables, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
    text, _ = process.communicate(timeout=60)
    print(text, process.returncode)
"""


def test_a_forked_command_does_what_a_new_interpreter_does(tmp_path: Path):
    (tmp_path / "script").write_text(SCRIPT)
    seen = {}
    for name in ("warm", "cold"):
        caller = tmp_path / name
        caller.write_text(CALLER)
        words = [Path(__file__).parent, tmp_path / "script", tmp_path, "work", "refuse", "fail"]
        outcome = subprocess.run([sys.executable, caller, *words], capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr
        frames = ("File", "run", "^")  # of a traceback: a fork has more
        lines = outcome.stdout.splitlines()
        seen[name] = [line for line in lines if not line.lstrip().startswith(frames)]
    assert seen["warm"] == seen["cold"]
    assert "forkserver [(0, '__mp_main__', 'work'), (1, '__mp_main__', 'work')]" in seen["warm"]
    assert seen["warm"][-1] == " 1"
