"""Reports in headless Chromium: nothing leaves the page, slices scroll, layers switch, rows sort.

apt-get install chromium && pip install playwright && pytest -m slow tests/report/test_in_browser.py
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from report.small_folders import EVIL, EVIL_CLASS, model_folder, predictions_folder, raw_folder
from tiny_study import use_home, write_image

from graphnn_unet.report.make import make_report

pytestmark = pytest.mark.slow

DICE = {"good": 0.95, "middle": 0.8, "poor": 0.3, "fair": 0.7, "bad": 0.5, "fine": 0.9}
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]  # fmt: skip
WAIT_MS = 120_000


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("GNNUNET_TEST_BROWSER") or next(
        filter(None, map(shutil.which, names)), ""
    )
    if not program:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=ARGUMENTS, timeout=WAIT_MS)
        yield opened
        opened.close()


class Opened:
    """A page that was opened, with what it asked for and complained about."""

    def __init__(self, browser, path: Path, width: int = 1280):
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(WAIT_MS)
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog {dialog.message}"))
        self.page.goto(path.as_uri())

    def _console(self, message) -> None:
        if message.type in ("error", "warning") and "GPU stall" not in message.text:
            self.faults.append(message.text)

    def viewer(self):
        self.page.locator("#viewer").scroll_into_view_if_needed()
        self.page.wait_for_selector("#viewer[data-ready=true]")
        return self.page.locator("#viewer canvas")

    @property
    def place(self) -> str:
        return self.page.locator("#viewer .place").inner_text()

    def look(self) -> np.ndarray:
        """Pixels of the canvas."""
        from io import BytesIO

        from PIL import Image

        self.page.wait_for_timeout(300)
        return np.asarray(Image.open(BytesIO(self.page.locator("#viewer canvas").screenshot())))

    def stayed_at_home(self) -> None:
        assert self.requests
        assert all(url.startswith(("file:", "blob:", "data:")) for url in self.requests)
        assert self.faults == []


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A training with the worst names that a file system takes, scored and with uncertainty."""
    root = tmp_path_factory.mktemp("report")
    names = dict(zip(EVIL, (0.1, 0.99, 0.6), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        home = use_home(root / "home", patch)
        raw_folder(home / "raw", {case: {} for case in {**DICE, **names}}, EVIL_CLASS)
        predictions = predictions_folder(root / "p", DICE | names, EVIL_CLASS)
        uncertainty = np.linspace(0, 1, 12 * 14 * 16).reshape(12, 14, 16).astype(np.float32)
        write_image(predictions / f"{EVIL[0]}_uncertainty.nii.gz", uncertainty, (2.0, 1.0, 1.0))
        yield make_report(predictions, root / "predictions.html", cases=4)


def test_nothing_leaves_and_no_name_runs(browser, report):
    opened = Opened(browser, report)
    opened.viewer()
    opened.stayed_at_home()
    assert EVIL[0] in opened.page.locator("table.data").last.inner_text()
    assert EVIL[0] in opened.page.locator("#viewer option").first.inner_text()
    assert EVIL_CLASS in opened.page.locator("#viewer .legend").inner_text()


def test_a_request_would_be_refused(browser, report):
    opened = Opened(browser, report)
    answer = opened.page.evaluate(
        "() => fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => String(error))"
    )
    assert "Failed to fetch" in answer
    assert any("Content Security Policy" in fault for fault in opened.faults)
    opened.page.evaluate("document.body.append(Object.assign(document.createElement('img'), "
                         "{src: 'http://127.0.0.1:9/x.png'}))")  # fmt: skip
    assert sum("Content Security Policy" in fault for fault in opened.faults) >= 2


def test_tables_sort_and_filter(browser, report):
    page = Opened(browser, report).page
    table = page.locator("table.data").last
    head = table.locator("th", has_text="Dice").first

    def dices() -> list[float]:
        cells = table.locator("tbody tr:not([hidden]) td:nth-child(2)").all_inner_texts()
        return [float(cell) for cell in cells]

    head.locator("button").click()
    assert dices() == sorted([*DICE.values(), 0.1, 0.99, 0.6])
    head.locator("button").click()
    assert dices() == sorted([*DICE.values(), 0.1, 0.99, 0.6], reverse=True)
    field = page.locator("input[type=search]").last
    field.fill("Dice < 0.55")
    assert sorted(dices()) == [0.1, 0.3, 0.5]
    field.fill("FIN")
    assert dices() == [0.9]
    field.fill("")
    assert len(dices()) == 9


def test_slices_scroll_by_key_and_wheel(browser, report):
    opened = Opened(browser, report)
    canvas = opened.viewer()
    canvas.click(position={"x": 150, "y": 200})
    before, picture = opened.place, opened.look()
    canvas.press("ArrowUp")
    assert opened.place != before
    assert (opened.look() != picture).any()
    canvas.press("ArrowDown")
    assert opened.place.split(" · ")[0] == before.split(" · ")[0]
    scrolled = opened.page.evaluate("window.scrollY")
    opened.page.mouse.wheel(0, 200)
    opened.page.wait_for_timeout(500)
    assert opened.place != before
    assert opened.page.evaluate("window.scrollY") == scrolled


def test_layers_switch(browser, report):
    opened = Opened(browser, report)
    canvas = opened.viewer()
    canvas.press("a")
    for key, name in enumerate(("image", "label", "prediction", "difference", "uncertainty"), 1):
        button = opened.page.locator("#viewer .layers button", has_text=name)
        was, picture = button.get_attribute("aria-pressed"), opened.look()
        canvas.press(str(key))
        assert button.get_attribute("aria-pressed") != was
        assert (opened.look() != picture).mean() > 0.001, name
        button.click()
        assert button.get_attribute("aria-pressed") == was
    assert opened.faults == []


def test_window_is_dragged_and_set_back(browser, report):
    opened = Opened(browser, report)
    canvas = opened.viewer()
    window = "() => { const v = document.getElementById('viewer').viewer.volumes[0];" \
             "return [v.cal_min, v.cal_max]; }"  # fmt: skip
    before = opened.page.evaluate(window)
    box = canvas.bounding_box()
    opened.page.mouse.move(box["x"] + 100, box["y"] + 100)
    opened.page.mouse.down(button="right")
    opened.page.mouse.move(box["x"] + 130, box["y"] + 140, steps=8)
    opened.page.mouse.up(button="right")
    assert opened.page.evaluate(window) != before
    canvas.press("r")
    assert opened.page.evaluate(window) == before


def test_cases_and_planes_are_chosen(browser, report):
    opened = Opened(browser, report)
    canvas = opened.viewer()
    three = opened.look()
    canvas.press("s")
    assert (opened.look() != three).any()
    canvas.press("n")
    opened.page.locator("#viewer .case-note", has_text="no uncertainty was saved").wait_for()
    assert opened.page.locator("#viewer select").input_value() == "1"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_as_wide_as_the_window(browser, report, width):
    opened = Opened(browser, report, width)
    opened.viewer()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    small = opened.page.evaluate(
        "() => Math.min(...[...document.querySelectorAll('p, td, li, button')]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert small >= 11


def test_print_has_tables_and_pictures_and_no_buttons(browser, report):
    page = Opened(browser, report).page
    page.emulate_media(media="print")
    assert not page.locator("#viewer").is_visible()
    assert not page.locator(".tools").first.is_visible()
    assert page.locator("table.data").last.is_visible()
    assert page.locator("figure img").first.is_visible()
    box = page.locator(".wide.long, .wide").last
    assert box.evaluate("(e) => getComputedStyle(e).overflowY") == "visible"


def test_other_pages_open_without_a_fault(browser, tmp_path, monkeypatch):
    home = use_home(tmp_path / "home", monkeypatch)
    raw = raw_folder(home / "raw", {case: {} for case in DICE})
    model = model_folder(home / "results", DICE)
    for source, heading in ((raw, "Look into the scans"), (model, "Learning curves")):
        opened = Opened(browser, make_report(source, tmp_path / f"{source.name}.html"))
        opened.viewer()
        assert opened.page.get_by_role("heading", name=heading).is_visible()
        assert opened.page.locator("table.data tbody tr").count() >= len(DICE)
        assert opened.faults == []
        opened.stayed_at_home()


def test_pictures_are_looked_at_in_one_plane(browser, tmp_path, monkeypatch):
    from PIL import Image

    use_home(tmp_path / "home", monkeypatch)
    rng = np.random.default_rng(0)
    for folder, array in (("i", rng.integers(0, 255, (40, 60, 3))), ("p", np.eye(40, 60) > 0)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / "cell.png")
    page = make_report(tmp_path / "p", tmp_path / "r.html", images=tmp_path / "i")
    opened = Opened(browser, page)
    opened.viewer()
    assert opened.place.startswith("pixel ")
    assert not opened.page.locator("#viewer button", has_text="sagittal").is_visible()
    opened.stayed_at_home()
