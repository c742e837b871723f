"""Every command answers ``--help`` at once and tells scripts how it ended."""

import resource
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import graphnn_unet
from graphnn_unet.commands import train

COMMANDS = sorted(
    point.name for point in entry_points(group="console_scripts") if point.name[:8] == "gnnunet_"
)
HEAVY = {"torch", "nnunetv2", "numpy", "SimpleITK", "scipy", "pandas", "pydantic", "matplotlib"}

FROM_SECTIONS = {"gnnunet_classify", "gnnunet_cluster"}
"""Commands whose flags are made from settings that pydantic declares."""


def script(name: str) -> str:
    """The console script that the installation made."""
    return str(Path(sys.executable).parent / name)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=False
    )


def test_all_commands_are_installed():
    assert len(COMMANDS) >= 9
    folder = Path(graphnn_unet.__file__).parent / "commands"
    modules = {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")}
    assert {f"gnnunet_{name}" for name in modules} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_takes_less_than_a_second(name):
    """Of the processor: the clock also counts what else the machine is doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [script(name), "--help"], capture_output=True, encoding="utf-8", check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name} ")
    assert "--quiet" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


_HELP_AND_MODULES = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module("graphnn_unet.commands." + name[8:]).main(["--help"])
    except SystemExit as ended:
        assert not ended.code
    print("\\nloaded:", name, *sorted(name for name in sys.modules if "." not in name))
"""


def test_help_imports_nothing_heavy():
    ordered = sorted(COMMANDS, key=lambda name: name in FROM_SECTIONS)  # what is loaded stays
    done = python(_HELP_AND_MODULES, *ordered)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert [line[1] for line in lines] == ordered
    for line in lines:
        allowed = {"pydantic"} if line[1] in FROM_SECTIONS else set()
        assert not (HEAVY - allowed) & set(line[2:]), line[1]


def test_package_imports_light_and_its_functions_when_used():
    done = python("import graphnn_unet, sys; print(graphnn_unet.__version__, *sys.modules)")
    assert done.returncode == 0, done.stderr
    version, *modules = done.stdout.split()
    assert version == graphnn_unet.__version__
    assert not HEAVY & set(modules)
    for name in graphnn_unet.__all__:
        assert hasattr(graphnn_unet, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        graphnn_unet.nothing  # noqa: B018


def test_version_is_one_line():
    done = subprocess.run(
        [script("gnnunet_info"), "--version"], capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (0, f"gnnunet_info {graphnn_unet.__version__}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_flag_ends_with_2(name, capsys):
    with pytest.raises(SystemExit) as ended:
        import_module(f"graphnn_unet.commands.{name[8:]}").main(["--no-such-flag"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.endswith(f"{name} --help shows all arguments.\n")


_ENDING = """
import sys
from graphnn_unet.commands import info
from graphnn_unet import errors
fault = errors.Fault("case_1", "check", "it is empty", "Copy it again")

def work(arguments):
    kind = sys.argv[1]
    if kind == "defect":
        raise KeyError("a bug")
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind != "well":
        raise {
            "input": errors.InputError("scan.nii.gz is empty", "0 bytes", "Copy it again"),
            "faults": errors.FaultsError([fault, fault]),
            "failed": errors.CasesFailedError([fault]),
            "diverged": errors.DivergedError("the loss was not finite"),
        }[kind]

info._work = work
sys.exit(info.main([]))
"""


@pytest.mark.parametrize(
    ("kind", "status", "lines"),
    [
        ("well", 0, []),
        ("defect", 1, None),
        ("diverged", 2, ["error: the loss was not finite."]),
        ("input", 2, ["error: scan.nii.gz is empty: 0 bytes. Copy it again."]),
        ("faults", 2, ["error: case_1: it is empty. Copy it again."] * 2),
        ("failed", 3, ["error: case_1: it is empty. Copy it again."]),
        ("interrupt", 130, ["interrupted: Run the same command again to go on"]),
    ],
)
def test_exit_status_and_one_line_a_fault(kind, status, lines):
    done = python(_ENDING, kind)
    assert done.returncode == status
    if lines is None:
        assert done.stderr.startswith("Traceback")
    else:
        assert done.stderr.splitlines() == lines


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["A", "2d", "BCPTrainer", "-c"], "unrecognized arguments: -c. Near names: --c, "),
        (["A", "2d", "BCPTrainer", "--time-limit", "60"], "'60' is no time such as 90m"),
        (["A"], "the following arguments are required: configuration, trainer. gnnunet_train"),
        (["A", "2d", "BCPTrainer", "0", "more"], "unrecognized arguments: more. gnnunet_train"),
    ],
)
def test_wrong_arguments_are_one_line(given, words, capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(given)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
    assert err.endswith("gnnunet_train --help shows all arguments.\n")
