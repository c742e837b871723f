"""The report of a data set, raw or preprocessed: its cases in one table, and what stands out."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphnn_unet.data.check import CheckReport, check_dataset
from graphnn_unet.data.odd_labels import odd_labels
from graphnn_unet.errors import GraphnnError, MissingFileError
from graphnn_unet.images.find import some
from graphnn_unet.images.label_ids import default_name, ids_of_user, label_values
from graphnn_unet.metrics.labels import read_labels
from graphnn_unet.report.contents import CaseFinder, Report, ReportSettings
from graphnn_unet.report.dataset_facts import (
    UNLABELED,
    CaseFacts,
    Facts,
    preprocessed_facts,
    raw_facts,
)
from graphnn_unet.report.outliers import (
    INTENSITY_FACTOR,
    SPACING_FACTOR,
    median_factor,
    mirrored,
    size_words,
)
from graphnn_unet.report.page import commands
from graphnn_unet.report.scores import cases_of, plain_case_table, shown
from graphnn_unet.report.shown_cases import CasePaths
from graphnn_unet.storage.safe_load import read_json

_MIN_USUAL = 0.9
_ENOUGH = 5
_MAX_FAULTS = 20


def raw_report(folder: Path, settings: ReportSettings) -> Report:
    """The report of a raw folder: the check that planning makes, and outliers."""
    checked = check_dataset(folder, n_workers=settings.n_workers)
    facts = raw_facts(checked, settings.n_workers)
    shapes = {case: meta.shape for case, meta in checked.cases.items()}
    facts = Facts([replace(f, shape=shapes.get(f.case, f.shape)) for f in facts.cases])
    description = _table(folder / "dataset.json")
    notes = _notes(facts, _inside_classes(description), copies_too=False)
    for fault in checked.faults:
        if fault.case in shapes:
            notes.setdefault(fault.case, []).append(fault.cause)
    report = _report(folder.name, facts, description, notes)
    report.findings = [
        *_of_check(checked), *_of_notes(notes, checked), *_odd_labels(facts, description)
    ]  # fmt: skip
    report.shown = [
        CasePaths(f.case, f.image, f.label, word=word)
        for f, word in _chosen(facts, notes, settings)
    ]
    report.classes = _user_classes(folder)
    name = shlex.quote(folder.name)
    report.after = [commands([f"gnnunet_plan_and_preprocess -d {name}",
                              f"gnnunet_train {name} CONFIGURATION TRAINER"])]  # fmt: skip
    return report


def preprocessed_report(folder: Path, settings: ReportSettings) -> Report:
    """The report of a preprocessed folder: what training reads.

    Raises:
        MissingFileError: There is no preprocessed configuration.
    """
    where, plans = _configuration(folder)
    facts = preprocessed_facts(where, plans, settings.n_workers)
    description = _table(folder / "dataset.json")
    notes = _notes(facts, _inside_classes(description), copies_too=True)
    report = _report(folder.name, facts, description, notes)
    report.lead.append(
        f"This is what training reads ({where.name}): resampled and normalized. Spacings are those "
        "of the files, voxels those after resampling."
    )
    report.findings = [*_of_notes(notes, None), *_odd_labels(facts, description)]
    finder = CaseFinder(folder.name, settings, [folder / "gt_segmentations"])
    report.shown = [finder.paths(f.case, None, word) for f, word in _chosen(facts, notes, settings)]
    report.no_cases = finder.no_cases
    report.classes = _user_classes(folder)
    report.after = [commands([f"gnnunet_train {shlex.quote(folder.name)} CONFIGURATION TRAINER"])]
    return report


def _configuration(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the first configuration with cases, the finest of 3D before others."""
    order = ("3d_fullres", "2d", "3d_lowres")
    for plans_file in sorted(folder.glob("*Plans*.json")):
        plans = _table(plans_file)
        configurations = plans.get("configurations")
        if not isinstance(configurations, dict):
            continue
        names = sorted(configurations, key=lambda n: order.index(n) if n in order else len(order))
        for name in names:
            entry = configurations[name]
            identifier = entry.get("data_identifier") if isinstance(entry, dict) else None
            where = folder / str(identifier or f"{plans_file.stem}_{name}")
            if any(where.glob("*.pkl")) or any(Path(f"{where}{UNLABELED}").glob("*.pkl")):
                return where, plans
    raise MissingFileError(
        f"{folder} holds no preprocessed cases", "", "Run gnnunet_plan_and_preprocess first"
    )


def _report(
    name: str, facts: Facts, description: Mapping[str, Any], notes: Mapping[str, Sequence[str]]
) -> Report:
    roles = {
        role: sum(f.role == role for f in facts.cases) for role in ("labeled", "unlabeled", "test")
    }
    counts = ", ".join(f"{n} {role}" for role, n in roles.items() if n)
    channels = description.get("channel_names", {})
    listed = ", ".join(map(str, channels.values())) if isinstance(channels, dict) else ""
    labels = ", ".join(_inside_classes(description))
    lead = [
        f"{name} has {cases_of(len(facts.cases))}: {counts}." if counts else f"{name} has no case."
    ]
    lead.append(f"Channels: {listed or 'unknown'}. Classes: {labels or 'none'}.")
    report = Report(title=f"Data set {name}", lead=lead)
    if notes:
        marked = sum(1 for f in facts.cases if notes.get(f.case))
        verb = "is" if marked == 1 else "are"
        report.lead.append(f"{marked} of them {verb} worth a look: the remarks say why.")
    report.parts = ["<h2>Cases</h2>", _case_table(facts, description, notes)]
    return report


def _case_table(
    facts: Facts, description: Mapping[str, Any], notes: Mapping[str, Sequence[str]]
) -> str:
    columns: dict[str, dict[str, str]] = {"role": {f.case: f.role for f in facts.cases}}
    columns["voxels z y x" if facts.unit == "ml" else "pixels y x"] = {
        f.case: " × ".join(map(str, f.shape)) for f in facts.cases
    }
    if facts.unit == "ml":
        columns["spacing mm z y x"] = {
            f.case: " × ".join(f"{step:.3g}" for step in f.spacing) for f in facts.cases
        }
    names = description.get("channel_names", {})
    n_channels = max((len(f.intensities) for f in facts.cases), default=0)
    for number in range(min(n_channels, 4)):
        channel = names.get(str(number), number) if isinstance(names, dict) else number
        for place, word in enumerate(("0.5 %", "median", "99.5 %")):
            columns[f"{channel} {word}"] = {
                f.case: f"{f.intensities[number][place]:.4g}"
                for f in facts.cases
                if number < len(f.intensities)
            }
    digits = 2 if facts.unit == "ml" else 0
    for name, ids in _inside_classes(description).items():
        columns[f"{name} {facts.unit}"] = {
            f.case: shown(sum(f.volumes.get(i, 0.0) for i in ids), digits)
            for f in facts.cases
            if f.volumes is not None
        }
    return plain_case_table([f.case for f in facts.cases], notes, columns)


def _notes(
    facts: Facts, classes: Mapping[str, Sequence[int]], *, copies_too: bool
) -> dict[str, list[str]]:
    """Case to remarks."""
    notes: dict[str, list[str]] = {}

    def note(case: str, words: str) -> None:
        notes.setdefault(case, []).append(words)

    for case in facts.cases:
        if case.fault:
            note(case.case, f"cannot be read: {case.fault}")
    _note_labels(facts, classes, note)
    for words, factors in _factors(facts):
        for case, factor in factors.items():
            note(
                case,
                words.format(
                    factor if factor >= 1 else 1 / factor, "larger" if factor > 1 else "smaller"
                ),
            )
    images = mirrored({f.case: f.small for f in facts.cases if f.small is not None})
    labels = mirrored({f.case: f.small_label for f in facts.cases if f.small_label is not None})
    for case, mirror in images.items():
        note(case, f"the image {mirror.words if not mirror.twin else f'is {mirror.words}'}")
    for case, mirror in labels.items():
        if case not in images and not mirror.twin:
            note(case, f"the label map {mirror.words}, its image does not")
    if copies_too:
        first: dict[str, str] = {}
        for f in facts.cases:
            if f.content and first.setdefault(f.content, f.case) != f.case:
                note(f.case, f"has the same voxels as {first[f.content]}")
    return notes


def _note_labels(
    facts: Facts, classes: Mapping[str, Sequence[int]], note: Callable[[str, str], None]
) -> None:
    labeled = {f.case: f.volumes for f in facts.cases if f.volumes is not None}
    for case, volumes in labeled.items():
        if not volumes:
            note(case, "the label map is empty")
    for name, ids in classes.items():
        sizes = {case: sum(v.get(i, 0.0) for i in ids) for case, v in labeled.items()}
        for case, factor in median_factor(sizes).items():
            note(case, size_words(name, factor))
        without = [case for case, size in sizes.items() if not size and labeled[case]]
        n_others = len(sizes) - 1  # the case itself is none of those that it is compared with
        usual = sum(size > 0 for size in sizes.values()) >= _MIN_USUAL * n_others
        if usual and len(sizes) >= _ENOUGH:
            for case in without:
                note(case, f"{name} is missing, nearly all others have it")


def _factors(facts: Facts) -> list[tuple[str, dict[str, float]]]:
    """Spacings and ranges of intensities far from the median, with the words for them."""
    rows: list[tuple[str, dict[str, float]]] = []
    with_spacing = [f for f in facts.cases if len(f.spacing) == 3]
    for axis, name in enumerate("zyx"):
        steps = {f.case: f.spacing[axis] for f in with_spacing}
        rows.append((f"its spacing along {name} is {{:.3g}} times {{}} than the median",
                     median_factor(steps, SPACING_FACTOR)))  # fmt: skip
    ranges = {
        f.case: max(high - low, 0.0)
        for f in facts.cases
        if f.intensities
        for low, _, high in f.intensities[:1]
        if math.isfinite(high - low)
    }
    rows.append(("its range of intensities is {:.3g} times {} than the median",
                 median_factor(ranges, INTENSITY_FACTOR)))  # fmt: skip
    return rows


def _of_check(checked: CheckReport) -> list[str]:
    """Faults of the data set itself and those that stop planning, in the check's own words."""
    general = [fault for fault in checked.faults if fault.case not in checked.cases]
    errors = [fault for fault in checked.errors if fault.case in checked.cases]
    lines = [fault.line for fault in (*general, *errors)]
    more = len(lines) - _MAX_FAULTS
    rest = [f"{more} more faults stand in the table below."] if more > 0 else []
    return [*lines[:_MAX_FAULTS], *rest]


def _of_notes(notes: Mapping[str, Sequence[str]], checked: CheckReport | None) -> list[str]:
    """One sentence a kind of remark."""
    told = {f.case for f in checked.errors} if checked else set()
    kinds = (
        ("times its median size", "A label is 10 or more times the median of its class in"),
        ("of its median size", "A label is a tenth or less of the median of its class in"),
        ("label map is empty", "The label map is empty in"),
        ("is missing, nearly", "A class that nearly all cases have is missing in"),
        ("mirror", "The scan or its label map looks mirrored in"),
        ("same voxels", "The scan is a copy of another in"),
        ("spacing along", "The voxels are far larger or smaller than usual in"),
        ("range of intensities", "The intensities have another scale in"),
        ("cannot be read", "A file cannot be read in"),
    )  # fmt: skip
    sentences = []
    for part, words in kinds:
        hits = [case for case, of_case in notes.items() if any(part in text for text in of_case)]
        if part == "cannot be read":
            hits = [case for case in hits if case not in told]
        if hits:
            sentences.append(f"{words} {cases_of(len(hits))}: {some(hits)}.")
    return sentences


def _odd_labels(facts: Facts, description: Mapping[str, Any]) -> list[str]:
    """Questions about classes without a name of their own, as converting asks them."""
    try:
        user = ids_of_user(description)
    except GraphnnError:
        return []
    classes = _inside_classes(description).items()
    of_user = {i: user.get(i, i) for _, ids in classes for i in ids}
    unnamed = {of_user[i] for name, ids in classes for i in ids if name == default_name(of_user[i])}
    sizes = {
        case.case: {
            of_user[i]: f"{n:.3g} {facts.unit}" for i, n in case.volumes.items() if i in of_user
        }
        for case in facts.cases
        if case.volumes is not None
    }
    return [f"{question}." for question in odd_labels(sizes, unnamed)]


def _chosen(
    facts: Facts, notes: Mapping[str, Sequence[str]], settings: ReportSettings
) -> list[tuple[CaseFacts, str]]:
    """Cases with remarks first, then labeled ones of median size."""
    readable = [f for f in facts.cases if not f.fault]
    odd = [f for f in readable if notes.get(f.case)]
    sizes = [sum((f.volumes or {}).values()) for f in readable]
    middle = float(np.median(sizes)) if sizes else 0.0
    rest = sorted(
        (f for f in readable if not notes.get(f.case)),
        key=lambda f: (f.volumes is None, abs(sum((f.volumes or {}).values()) - middle), f.case),
    )
    # one plain case is always beside the odd ones, to compare with
    n_odd = min(len(odd), max(settings.n_cases - 1, 0) if rest else settings.n_cases)
    chosen = [*((f, "odd") for f in odd[:n_odd]), *((f, "usual") for f in rest)]
    return chosen[: settings.n_cases]


def _inside_classes(description: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Class or region to its ids inside, which raw and preprocessed label maps have."""
    labels = description.get("labels", {})
    if not isinstance(labels, dict):
        return {}
    classes = {}
    for name, ids in labels.items():
        try:
            values = label_values({name: ids})
        except (TypeError, ValueError):
            continue
        if name not in ("background", "ignore") and values != (0,):
            classes[str(name)] = values
    return classes


def _user_classes(folder: Path) -> Mapping[str, Any]:
    try:
        return read_labels(folder / "dataset.json").classes
    except GraphnnError:
        return {}


def _table(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
