"""Which labeled cases train and which are held out: by patient, for any number of cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graphnn_unet.errors import InputError
from graphnn_unet.seeds import case_draw

N_FOLDS = 5
SPLIT_SEED = 12345
"""nnU-Net's own seed: with one scan a patient the folds are those of nnU-Net."""


def make_splits(
    patient_of: Mapping[str, str], n_folds: int = N_FOLDS, corrected: Collection[str] = ()
) -> list[dict[str, list]]:
    """Folds for cross-validation, patients apart.

    Args:
        patient_of: Labeled case to patient.
        n_folds: Wanted number of folds; at most one a patient.
        corrected: Cases whose label maps are corrected predictions. They are held out in no fold,
            as a score against them would flatter the model that drew them, and train in the folds
            that hold out no scan of their patient; so the folds of the others stay as they were.

    Returns:
        ``[{"train": [...], "val": [...]}, ...]``, min(n_folds, patients) entries (leave one out
        below five); empty with a single patient, where nothing can be held out.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    drawn = {case: patient for case, patient in patient_of.items() if case not in corrected}
    patients = sorted(set(drawn.values()))
    if len(patients) < 2:
        return []
    folds = generate_crossval_split(patients, SPLIT_SEED, min(n_folds, len(patients)))

    def cases_of(some_patients: Sequence[str], outside: Sequence[str] = ()) -> list[str]:
        wanted, unwanted = set(some_patients), set(outside)
        cases = [case for case, patient in drawn.items() if patient in wanted]
        if outside:
            cases += [case for case in corrected if patient_of.get(case, "") not in unwanted]
        return sorted(cases)

    return [
        {"train": cases_of(fold["train"], fold["val"]), "val": cases_of(fold["val"])}
        for fold in folds
    ]


def describe_splits(patient_of: Mapping[str, str], splits: Sequence[Mapping]) -> str:
    """One sentence on what can be held out and why."""
    n_cases, n_patients = len(patient_of), len(set(patient_of.values()))
    who = f"{n_cases} labeled cases" + (
        f" of {n_patients} patient{'s' * (n_patients > 1)}" if n_patients != n_cases else ""
    )
    if not splits:
        return (
            f"{who}: nothing can be held out, so there is no cross-validation; "
            "train with fold 'all' and score on test cases"
        )
    kind = "leave-one-out" if len(splits) == n_patients else "cross-validation"
    apart = "; scans of one patient stay together" if n_patients != n_cases else ""
    fewer = f" (fewer than {N_FOLDS}: {n_patients} patients)" if len(splits) < N_FOLDS else ""
    return f"{who}: {len(splits)}-fold {kind}{fewer}{apart}"


def choose_labeled(
    label_order: Sequence[str],
    n_labeled: int | None,
    draw: int,
    patient_of: Mapping[str, str] | None = None,
    corrected: Sequence[str] = (),
) -> list[str]:
    """The labeled cases of a run.

    Args:
        label_order: All labeled cases in published order.
        n_labeled: How many count as labeled; ``None`` for all.
        draw: 0 takes the first ones; any other number is a random order of patients that depends
            on the number alone, so that trainers and seeds meet the same cases.
        patient_of: Case to patient; a subset may not part the scans of a patient.
        corrected: Cases that were labeled later, in their order: they follow in every draw, so that
            a draw of fewer cases stays what it was.

    Returns:
        Case ids, in the order of the draw.

    Raises:
        InputError: More cases than there are, or the subset would part a patient.
    """
    patient_of = patient_of or {case: case for case in label_order}
    n_cases = len(label_order) + len(corrected)
    n_labeled = n_cases if n_labeled is None else n_labeled
    if not 1 <= n_labeled <= n_cases:
        raise InputError(
            f"--labeled {n_labeled} is not possible",
            f"the data set has {n_cases} labeled cases",
        )
    order = list(label_order)
    if draw:
        patients = list(dict.fromkeys(patient_of[case] for case in order))
        drawn = case_draw(draw).permutation(patients)
        rank = {patient: place for place, patient in enumerate(drawn)}
        order.sort(key=lambda case: rank[patient_of[case]])
    labeled, rest = order[:n_labeled], order[n_labeled:]
    parted = {patient_of[c] for c in labeled} & {patient_of[c] for c in rest}
    if parted:
        patient = sorted(parted)[0]
        sizes = [
            size
            for size in range(1, len(order) + 1)
            if not {patient_of[c] for c in order[:size]} & {patient_of[c] for c in order[size:]}
        ]
        near = sorted(sizes, key=lambda size: (abs(size - n_labeled), size))[:2]
        raise InputError(
            f"--labeled {n_labeled} would part the scans of patient {patient}",
            "a labeled and an unlabeled scan of one patient are not independent",
            f"Use --labeled {' or '.join(str(size) for size in sorted(near))}",
        )
    return [*labeled, *corrected[: max(0, n_labeled - len(order))]]


def set_apart(
    label_order: Sequence[str], patient_of: Mapping[str, str], n_development: int
) -> tuple[list[str], list[str]]:
    """Labeled cases that may train, and those that are kept for choosing between methods.

    Whole patients from the end of the order, the same for every draw, seed and method.

    Args:
        label_order: All labeled cases in published order.
        patient_of: Case to patient.
        n_development: Cases to keep; more are kept where the last patient has further scans.

    Returns:
        The other cases in their order, and the development cases in theirs.

    Raises:
        InputError: None would be left.

    Example:
        >>> set_apart(["a", "b1", "b2"], {"a": "a", "b1": "b", "b2": "b"}, 1)
        (['a'], ['b1', 'b2'])
    """
    kept: set[str] = set()
    for patient in reversed(list(dict.fromkeys(patient_of[case] for case in label_order))):
        if len(kept) >= n_development:
            break
        kept |= {case for case in label_order if patient_of[case] == patient}
    if n_development and len(kept) == len(label_order):
        raise InputError(
            f"--development {n_development} is not possible",
            f"the data set has {len(label_order)} labeled cases, and some must train",
        )
    return [c for c in label_order if c not in kept], [c for c in label_order if c in kept]


def held_out(
    labeled: Sequence[str],
    patient_of: Mapping[str, str],
    fold: int | str,
    corrected: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """Training and held-out cases of one fold among the labeled cases of a run.

    With fold ``all`` every case trains and the list of held-out cases is empty. Corrected cases are
    never held out, see :func:`make_splits`.

    Raises:
        InputError: There is no such fold; lists those that exist.
    """
    if fold == "all":
        return list(labeled), []
    corrected = [case for case in labeled if case in corrected]
    splits = make_splits({case: patient_of[case] for case in labeled}, corrected=corrected)
    if not isinstance(fold, int) or not 0 <= fold < len(splits):
        known = ", ".join([*(str(i) for i in range(len(splits))), "all"])
        raise InputError(
            f"fold {fold} does not exist", f"folds of these cases: {known}", "Choose one of them"
        )
    return splits[fold]["train"], splits[fold]["val"]
