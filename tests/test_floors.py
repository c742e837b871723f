"""The floors of the program, read from its imports: down, never up, never in a circle.

commands
report
benchmarking   clustering   classification
models
trainers
pseudo_labels   prediction   data   metrics   dataset_conversion
networks   images   plans   scan_graph
graph
storage
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_study import REPOSITORY

PACKAGE = "graphnn_unet"
FLOORS = {
    "commands": 9, "nnunet_trainers": 8,
    "report": 7,
    "benchmarking": 6, "clustering": 6, "classification": 6,
    "models": 5,
    "trainers": 4,
    "pseudo_labels": 3, "prediction": 3, "data": 3, "metrics": 3, "dataset_conversion": 3,
    "networks": 2, "images": 2, "plans": 2, "scan_graph": 2,
    "graph": 1,
    "storage": 0,
    "errors": -2, "progress": -1, "device": -1, "seeds": -1, "settings": -1, "stopping": -1,
    "deprecation": -1, "user_code": -1, "streams": -1, "ranges": -1, "fault_codes": -1,
    "_version": -3,
}  # fmt: skip
NEIGHBORS = {("dataset_conversion", "data")}
"""Rooms of one floor that may know each other, each pair in one direction."""
NO_NNUNET = {"commands", "report", "graph", "networks", "images", "metrics", "scan_graph",
             "storage", "dataset_conversion"}  # fmt: skip
GROWING_FILES = {
    "graphnn_unet.trainers.run_log": "a log grows line by line",
    "graphnn_unet.benchmarking.one_run": "what a process says is kept as it comes",
    "graphnn_unet.models.install": "unpacks into a temporary folder",
}
WRITERS = {"WriteImage", "savefig", "save", "savez", "savez_compressed", "write_text",
           "write_bytes", "dump", "to_csv", "to_filename"}  # fmt: skip


def modules() -> dict[str, Path]:
    """Dotted names of all modules as installed, and their files."""
    paths = {}
    for root in (PACKAGE, "dataset_conversion", "plans"):
        for path in sorted((REPOSITORY / root).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            parts = parts if root == PACKAGE else (PACKAGE, *parts)
            paths[".".join(parts).removesuffix(".__init__")] = path
    return paths


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room(module: str) -> str:
    """The room of a module, ``""`` for the package itself."""
    return [*module.split("."), ""][1]


def imported(tree: ast.AST, *, at_import: bool = False) -> Iterator[str]:
    """Names that a module imports; with ``at_import`` only those it needs to be imported."""
    stack = list(ast.iter_child_nodes(tree))
    while stack:
        node = stack.pop()
        if at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        stack += ast.iter_child_nodes(node)


def ours(tree: ast.AST, **options: bool) -> set[str]:
    return {name for name in imported(tree, **options) if name.split(".")[0] == PACKAGE}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Last names of all functions that are called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def test_every_module_has_a_floor():
    assert len(MODULES) > 80
    assert {room(name) for name in MODULES} - {""} <= set(FLOORS)


@pytest.mark.parametrize("name", [name for name in MODULES if room(name)])
def test_imports_never_go_up_or_sideways(name):
    """Those inside functions count; rooms of one floor know each other only where NEIGHBORS say."""
    for other in ours(TREES[name]):
        assert other in MODULES or other == PACKAGE, f"{other} does not exist"
        here, there = room(name), room(other)
        if there and there != here:
            below = FLOORS[there] < FLOORS[here]
            assert below or (here, there) in NEIGHBORS, f"{name} reaches up or over to {other}"


def test_neighbors_are_those_that_are_needed():
    met = {
        (room(name), room(other))
        for name, tree in TREES.items()
        for other in ours(tree)
        if room(name) and room(other) and room(name) != room(other)
        and FLOORS[room(name)] == FLOORS[room(other)]
    }  # fmt: skip
    assert met == NEIGHBORS


def test_imports_never_go_in_a_circle():
    """Between files and between rooms, those inside functions included."""
    files = {name: ours(tree) & set(MODULES) - {PACKAGE} for name, tree in TREES.items()}
    assert not circle_in({name: needs - {name} for name, needs in files.items() if name != PACKAGE})
    rooms: dict[str, set[str]] = {}
    for name, needs in files.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in needs)
    assert not circle_in({name: needs - {name, ""} for name, needs in rooms.items() if name})


def circle_in(needs: dict[str, set[str]]) -> str:
    """A circle as ``a -> b -> a``; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> str:
        if name in way:
            return " -> ".join((*way, name))
        circles = [visit(other, (*way, name)) for other in needs[name]] if name not in done else []
        done.add(name)
        return next(filter(None, circles), "")

    return next(filter(None, (visit(name, ()) for name in needs)), "")


def test_circles_are_seen():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == "a -> b -> c -> a"
    assert not circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "graph"])
def test_graph_knows_nothing_of_ours_but_errors(name):
    allowed = {f"{PACKAGE}.errors", f"{PACKAGE}.graph"}
    assert {other for other in ours(TREES[name]) if not other.startswith(f"{PACKAGE}.graph.")} <= (
        allowed
    )
    others = {other.split(".")[0] for other in imported(TREES[name])} - {PACKAGE}
    assert not others & {"nnunetv2", "SimpleITK", "nibabel", "batchgenerators", "batchgeneratorsv2"}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in NO_NNUNET])
def test_nnunet_is_reached_only_where_it_is_extended(name):
    assert "nnunetv2" not in {other.split(".")[0] for other in imported(TREES[name])}


@pytest.mark.parametrize(
    "name", [name for name in MODULES if room(name) not in ("commands", "progress")]
)
def test_only_commands_print_and_parse_arguments(name):
    assert "argparse" not in set(imported(TREES[name]))
    for function, call in calls(TREES[name]):
        if function == "print":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert keywords.get("file") == "sys.stderr", f"line {call.lineno} prints"
        assert ast.unparse(call.func) not in ("sys.exit", "exit", "quit"), f"line {call.lineno}"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "commands"])
def test_commands_import_heavy_things_only_when_they_work(name):
    allowed = {PACKAGE, f"{PACKAGE}._version", f"{PACKAGE}.errors", f"{PACKAGE}.commands",
               f"{PACKAGE}.commands._command", f"{PACKAGE}.ranges",
               f"{PACKAGE}.streams"}  # fmt: skip
    needed = set(imported(TREES[name], at_import=True))
    assert {other for other in needed if other.split(".")[0] == PACKAGE} <= allowed
    assert not {other.split(".")[0] for other in needed} & {"torch", "numpy", "nnunetv2", "scipy"}


@pytest.mark.parametrize(
    "name", [name for name in MODULES if room(name) != "storage" and name not in GROWING_FILES]
)
def test_files_are_written_through_atomic_paths(name):
    """Writers get the path ``temporary`` of ``atomic_path``, or are functions of storage."""
    storage = {
        alias.asname or alias.name
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom) and node.module == f"{PACKAGE}.storage.atomic"
        for alias in node.names
    }
    for function, call in calls(TREES[name]):
        if function == "open" and any(
            isinstance(a, ast.Constant) and str(a.value)[:1] in "wax" and len(str(a.value)) < 4
            for a in call.args
        ):
            pytest.fail(f"line {call.lineno} opens a file to write")
        if function in WRITERS - storage:
            text = ast.unparse(call)
            in_memory = text.startswith(("self.save", "trainer.save", "super().save"))
            assert "temporary" in text or in_memory, f"line {call.lineno}: {text}"


def test_no_user_mistake_ends_in_an_assertion():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                line = MODULES[name].read_text(encoding="utf-8").splitlines()[node.lineno - 1]
                assert "noqa: S101" in line, f"{name}, line {node.lineno}: without a reason"
