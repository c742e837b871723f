"""The vote of labeled scans on a scan that is new, registered on the spot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from graphnn_unet.errors import InputError
from graphnn_unet.progress import Progress
from graphnn_unet.scan_graph.fields import Link
from graphnn_unet.scan_graph.neighbors import profile
from graphnn_unet.scan_graph.registration import Displacement, RegistrationSettings, register
from graphnn_unet.scan_graph.scan import Scan, intensities
from graphnn_unet.scan_graph.votes import ScanGraphSettings, links_of, vote_through
from graphnn_unet.storage.atomic import atomic_path


@dataclass(frozen=True)
class NewScan:
    """A scan that belongs to no run.

    Attributes:
        array: ``(c, z, y, x)``, preprocessed as the labeled scans.
    """

    array: np.ndarray
    case_id: str = ""  # like that of no voter, whatever the user's file is called

    def image(self) -> np.ndarray:
        """The array."""
        return self.array

    def label(self) -> np.ndarray:
        """There is none."""
        raise PermissionError("a new scan has no label map")


@dataclass(frozen=True)
class NewVote:
    """What became of a vote on a new scan.

    Attributes:
        share: ``(k, z, y, x)`` float32 shares of the votes, 0 where there is none; ``None`` where
            no vote was cast at all.
        n_voters: Scans that were asked.
        failures: Why a scan could not vote, one reason a scan.
    """

    share: np.ndarray | None
    n_voters: int
    failures: list[str]


@dataclass(frozen=True)
class Panel:
    """Labeled scans that vote on new ones; goes to worker processes.

    Attributes:
        labeled: The scans, whose label maps may be read.
        spacing_mm: Voxel size of all scans, z, y, x.
        n_classes: Classes, background included.
        settings: How far the scans are trusted.
        registration: How scans are registered.
        profiles: What of each scan is compared where there are more than may vote.
        kept_in: Folder of this panel's votes, which other models with the same scans need not cast
            again; ``None`` keeps nothing. See :meth:`keeping`.
    """

    labeled: Sequence[Scan]
    spacing_mm: tuple[float, ...]
    n_classes: int
    settings: ScanGraphSettings
    registration: RegistrationSettings
    profiles: Sequence[np.ndarray | None] = ()
    kept_in: Path | None = None

    def ready(self, n_threads: int = 1) -> Panel:
        """The panel with the profiles that it needs."""
        if len(self.labeled) <= self.settings.neighbors:
            return self
        target = intensities(self.labeled[0])
        # the first one is what the others are brought to
        jobs = [(scan, target if number else None) for number, scan in enumerate(self.labeled)]
        profiles: list[np.ndarray | None] = []
        with (
            Progress(len(jobs), "graph of scans", "comparison") as progress,
            ThreadPoolExecutor(n_threads) as threads,
        ):
            for row in threads.map(lambda job: self._profile(*job), jobs):
                profiles.append(row)
                progress.update()
        return replace(self, profiles=profiles)

    def blending(self, amount: float | None) -> Panel:
        """The panel with another share of the vote; ``None`` leaves it."""
        if amount is None:
            return self
        settings = self.settings.model_copy(update={"blend": float(amount)})
        return replace(self, settings=settings)

    def keeping(self, folder: Path | None) -> Panel:
        """The panel that keeps its votes below a folder of several; ``None`` keeps nothing."""
        # the blend acts on what was voted
        kept_in = None if folder is None else folder / self.blending(0.5).digest()
        return replace(self, kept_in=kept_in)

    def digest(self) -> str:
        """Hash of all that a vote depends on beside the new scan."""
        facts = hashlib.sha256(
            repr((self.spacing_mm, self.n_classes, self.settings, self.registration)).encode()
        )
        for scan in self.labeled:
            image = np.ascontiguousarray(scan.image()[0], dtype=np.float32)
            label = np.ascontiguousarray(scan.label()[0], dtype=np.int16)
            facts.update(image.tobytes() + label.tobytes())
        return facts.hexdigest()[:16]

    def vote_on(
        self,
        image: np.ndarray,
        *,
        n_threads: int = 1,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> NewVote:
        """Register a new scan to the labeled ones and let them vote on it.

        Args:
            image: ``(c, z, y, x)``, preprocessed as the labeled scans.
            n_threads: Registrations at the same time.
            is_stopped: Asked now and then whether the vote is still wanted.
        """
        if self.kept_in is None:
            return self._vote_on(image, n_threads, is_stopped)
        content = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]
        path = self.kept_in / f"{content}.npy"
        if path.is_file():
            n_voters = min(len(self.labeled), self.settings.neighbors)
            return NewVote(np.load(path, allow_pickle=False), n_voters, [])
        vote = self._vote_on(image, n_threads, is_stopped)
        if vote.share is not None and not vote.failures:
            with atomic_path(path) as temporary:
                np.save(temporary, vote.share)
        return vote

    def _vote_on(
        self, image: np.ndarray, n_threads: int, is_stopped: Callable[[], bool]
    ) -> NewVote:
        scan = NewScan(image)
        voters = self._most_alike(scan)
        links = links_of(scan, voters, with_return=self.settings.return_tolerance > 0)
        volumes = {each.case_id: intensities(each) for each in (scan, *voters)}
        make = partial(self._register, volumes, is_stopped)
        with ThreadPoolExecutor(n_threads) as threads:
            outcomes = dict(zip(map(_ends, links), threads.map(make, links), strict=True))
        fields = {ends: p for ends, p in outcomes.items() if not isinstance(p, str)}
        failures = [p for (fixed, _), p in outcomes.items() if fixed == "" and isinstance(p, str)]
        vote = vote_through(
            scan, voters, lambda link: fields.get(_ends(link)), self.n_classes, self.settings
        )
        share = vote.share if vote is not None and vote.share.any() else None
        return NewVote(share, len(voters), failures)

    def _register(
        self, volumes: dict[str, np.ndarray], is_stopped: Callable[[], bool], link: Link
    ) -> Displacement | str:
        """A link, or why there is none."""
        fixed, moving = (volumes[name] for name in _ends(link))
        try:
            return register(
                fixed, moving, self.spacing_mm, self.registration, is_stopped=is_stopped
            )
        except InputError as error:
            return error.line.rstrip(".")
        except RuntimeError as error:  # what SimpleITK raises, many lines long
            return (str(error).strip().splitlines() or ["SimpleITK failed"])[-1].rstrip(".")

    def _most_alike(self, scan: Scan) -> list[Scan]:
        if len(self.labeled) <= self.settings.neighbors:
            return list(self.labeled)
        row = self._profile(scan, intensities(self.labeled[0]))
        likeness = [
            -1.0 if row is None or other is None else float(row @ other) for other in self.profiles
        ]
        order = np.argsort(-np.asarray(likeness), kind="stable")[: self.settings.neighbors]
        return [self.labeled[int(number)] for number in sorted(order)]

    def _profile(self, scan: Scan, target: np.ndarray | None) -> np.ndarray | None:
        row = profile(scan, target, self.spacing_mm, self.registration)
        return None if row is None else row.astype(np.float32)


def _ends(link: Link) -> tuple[str, str]:
    return link.fixed.case_id, link.moving.case_id
