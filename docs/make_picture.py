"""Draw the README's picture: python docs/make_picture.py"""

from pathlib import Path

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, FAINT, PAPER = "#1c2833", "#5d6d7e", "#ffffff"
STEPS = [
    ("your files", "NIfTI, DICOM, h5, nrrd\nlabels for some of them", "#fdf2e9"),
    ("convert + check", "one line a fault,\nnothing half written", "#eaf2f8"),
    ("plan + preprocess", "nnU-Net's own engine,\nunlabeled scans too", "#eaf2f8"),
    ("train", "pseudo-labels,\nmixed scans, graphs", "#e8f6ef"),
    ("predict", "sliding window,\ncase by case", "#eaf2f8"),
    ("evaluate", "Dice, Jaccard, 95HD, ASD\nin mm, with intervals", "#eaf2f8"),
]
DETAILS = [
    "the network learns from labeled\nscans pasted into each other",
    "then it labels all unlabeled\nscans whole; labels are smoothed",
    "all scans are pasted into each other;\na graph aligns the batch",
    "deep features form a graph:\ncorrelation-clustering loss",
]


def main() -> None:
    """Write docs/flow.svg."""
    figure = Figure(figsize=(12, 4.1), facecolor=PAPER)
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 120)
    axes.set_ylim(0, 41)
    axes.axis("off")
    for number, (head, text, color) in enumerate(STEPS):
        left = 2 + number * 19.6
        _box(axes, left, 26, 17, 12, color, head, text)
        if number:
            _arrow(axes, (left - 2.6, 32), (left, 32))
    axes.text(
        61, 20.2, "inside train: GraphCLTrainer", ha="center", fontsize=10, color=FAINT,
        style="italic",
    )  # fmt: skip
    for number, text in enumerate(DETAILS):
        left = 2 + number * 29.6
        _box(axes, left, 6, 26.8, 10, "#f4fbf7", "", text)
        if number:
            _arrow(axes, (left - 2.8, 11), (left, 11))
    _arrow(axes, (69.3, 26), (69.3, 22))
    axes.text(
        60, 1.8,
        "the result is a plain nnU-Net model: gnnunet_export writes one that stock nnU-Net "
        "predicts with",
        ha="center", fontsize=9.5, color=FAINT,
    )  # fmt: skip
    figure.savefig(Path(__file__).parent / "flow.svg", metadata={"Date": None})


def _box(axes, left, bottom, width, height, color, head, text) -> None:
    axes.add_patch(
        FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=1",
                       facecolor=color, edgecolor=FAINT, linewidth=1)
    )  # fmt: skip
    middle = left + width / 2
    if head:
        axes.text(middle, bottom + height - 3, head, ha="center", va="center", fontsize=11,
                  weight="bold", color=INK)  # fmt: skip
    axes.text(middle, bottom + (height / 2 if not head else 4.3), text, ha="center", va="center",
              fontsize=8.8, color=INK, linespacing=1.35)  # fmt: skip


def _arrow(axes, start, end) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=FAINT))


if __name__ == "__main__":
    main()
