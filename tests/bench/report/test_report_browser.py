"""The report in a real browser, from disk: it loads in silence, and all of it can be reached, filtered, sorted and read."""

import dataclasses
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from bench import report
from bench.cell import Cell, LearningRates
from bench.store import Store
from optimizers import SGD, Adam
from parameterizations import Full, LoRA
from problems import MatrixCompletion, MatrixFactorization

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the PyPI package playwright drives the browser: pip install '.[browser]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

RATES = LearningRates(values=(0.01, 0.1, 1e6))  # the last one diverges
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
VIEWS = {
    "overview": "view=overview",
    "list": "view=overview&layout=list",
    "curves": "view=problem&problem=matrix_factorization",
    "conditions": "view=problem&problem=matrix_factorization&chart=condition",
    "rates": "view=problem&problem=matrix_factorization&chart=sensitivity",
    "spectrum": "view=problem&problem=matrix_factorization&chart=spectra",
    "across": "view=across",
    "help": "view=help",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two problems by four methods."""
    store = Store(tmp_path_factory.mktemp("browser"))
    for problem in (MatrixFactorization(shape=(10, 8)), MatrixCompletion(shape=(12, 10), rank=2, observed=0.6)):
        for parameterization in (LoRA(rank=2), Full()):
            for optimizer in (SGD(), Adam()):
                made = Cell(problem, parameterization, optimizer, RATES, (0, 1), (100, 101, 102), steps=30, probes="all")
                store.save(made.key, made, made.run(), time.time(), time.process_time())
    return store


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    """The report; pictures of it land beside, or in $REPORT_SCREENSHOTS."""
    return report.write(store, store.keys(), tmp_path_factory.mktemp("page"), "tiny").parent


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Window:
    """A page of the report, with all that the browser complained about."""

    def __init__(self, browser, folder: Path, viewport, scheme: str) -> None:
        self.folder = folder
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce")
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, address: str = ""):
        """Load the page anew at an address behind the #."""
        self.page.goto("about:blank")
        self.page.goto((self.folder / "index.html").as_uri() + ("#" + address if address else ""))
        self.page.wait_for_function("document.title.includes('·')")
        return self.page

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]


@pytest.fixture
def window(chromium, folder):
    opened = Window(chromium, folder, DESKTOP, "light")
    yield opened
    opened.context.close()
    assert opened.complaints == []
    assert all(url.startswith(("file:", "about:", "data:")) for url in opened.asked), "nothing is fetched from a network"


def overview_of(folder: Path):
    text = (folder / "data" / "overview.js").read_text()
    return json.loads(text.removeprefix('Report.receive("overview", ').removesuffix(");\n"))


def picture(page) -> str:
    """What is drawn, to be told from what was drawn before."""
    drawn: str = page.evaluate("document.querySelector('.plot canvas').toDataURL()")
    return drawn


def settled(page) -> None:
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_from_disk_without_a_complaint(window, view):
    page = window.open(VIEWS[view])
    assert page.locator("main > section:visible").count() == 1
    assert page.locator("main > section:visible h1").count() == 1
    assert page.locator("#trouble:visible").count() == 0


def test_the_overview_opens_with_the_answer_in_words_and_numbers(window):
    page = window.open()
    cards = window.texts("#overview .card")
    assert len(cards) == 2
    best = overview_of(window.folder)["problems"][0]["answers"]["all"]
    assert best["best"] in cards[0]
    assert best["window"]["reading"] in cards[0]
    assert re.search(r"\d \[\S+, \S+\], median of 3 seeds", cards[0])
    assert page.locator("#overview tbody tr").count() == 4


def test_filters_reduce_what_is_shown_and_stand_in_the_address(window):
    page = window.open()
    assert page.locator("#overview tbody tr").count() == 4
    page.get_by_label("Search names").fill("full completion")
    assert page.locator("#overview tbody tr").count() == 2
    assert page.locator("#overview thead th").count() == 2
    assert "search=full+completion" in page.url
    page.get_by_label("Search names").fill("nothing at all")
    assert "No cell has all these words." in window.texts("#overview tbody")[0]
    page.get_by_label("Search names").fill("")
    page.get_by_text("Optimizers: 2 of 2").click()
    page.get_by_label("sgd", exact=True).uncheck()
    assert window.texts("#overview tbody th") == ["full + adam", "lora + adam"]
    page.reload()
    page.wait_for_selector("#overview tbody")
    assert window.texts("#overview tbody th") == ["full + adam", "lora + adam"], "a link shows the same"
    page.get_by_text("Problems: 2 of 2").click()
    page.get_by_label("matrix_completion", exact=True).uncheck()
    assert page.locator("#overview .card").count() == 1


def test_a_heading_sorts_by_number_both_ways_and_says_so(window):
    page = window.open()
    heading = page.locator("#overview thead th", has_text="matrix_factorization")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.locator("#status").inner_text() == "Sorted by matrix_factorization, ascending"
    column = [float(text.split()[-1]) for text in window.texts("#overview tbody td:nth-child(3) .figure")]
    assert column == sorted(column)
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.locator("#overview [aria-sort]").count() == 1
    column = [float(text.split()[-1]) for text in window.texts("#overview tbody td:nth-child(3) .figure")]
    assert column == sorted(column, reverse=True)


def test_the_measure_and_the_layout_can_be_chosen(window):
    page = window.open()
    before = window.texts("#overview tbody td")
    page.get_by_label("Measure").select_option("steps_to_1e-08")
    after = window.texts("#overview tbody td")
    assert before != after
    assert "never" in " ".join(after)
    page.get_by_label("Measure").select_option("window")
    assert " to " in window.texts("#overview tbody td")[0]
    page.get_by_label("Layout").select_option("list")
    assert "layout=list" in page.url
    rows = page.locator("#overview tbody tr")
    assert rows.count() == 8
    assert set(window.texts("#overview tbody th")) == {"matrix_completion", "matrix_factorization"}
    assert re.search(r"(best|worse|equal|open)\s.*\d \[", rows.first.inner_text(), re.DOTALL)


def test_a_link_opens_a_cell_with_the_command_that_reproduces_it(window):
    overview = overview_of(window.folder)
    key = overview["cells"]["key"][2]
    page = window.open(f"cell={key}")
    problem, method = (overview[f"{axis}s"][overview["cells"][axis][2]]["name"] for axis in ("problem", "method"))
    assert page.locator("#cell h1").inner_text().strip() == f"{method} on {problem}"
    page.wait_for_selector("#command")
    assert page.locator("#command").inner_text().startswith(f"python -m bench problem={problem}")
    assert key in page.locator("#cell").inner_text()
    assert page.locator("#cell table tbody tr").count() == 3 + 2 * len(RATES.values or ())
    page.get_by_role("button", name="Copy the command").click()
    page.wait_for_function("/Copied|Selected/.test(document.querySelector('.command [role=status]').textContent)")
    assert "No such cell" in window.open("cell=nobody").locator("#cell").inner_text()


def test_the_back_button_goes_back(window):
    page = window.open("view=overview")
    page.locator("#overview .entry").first.click()
    page.wait_for_selector("#command")
    assert page.evaluate("document.activeElement.tagName") == "H1", "who cannot see it hears where they are"
    page.go_back()
    page.wait_for_selector("#overview tbody")
    assert page.locator("#cell:visible").count() == 0


def test_the_legend_hides_a_line(window):
    page = window.open(VIEWS["curves"])
    settled(page)
    assert page.evaluate("Report.drawn.plot.series[1].show") is True
    before = picture(page)
    first = page.locator(".legend li button").first
    first.click()
    settled(page)
    assert first.get_attribute("aria-pressed") == "false"
    assert page.evaluate("Report.drawn.plot.series[1].show") is False
    assert picture(page) != before
    assert "show=" in page.url
    page.get_by_role("button", name="None", exact=True).click()
    assert set(page.evaluate("Report.drawn.plot.series.slice(1).map(s => s.show)")) == {False}
    page.get_by_role("button", name="All", exact=True).click()
    assert set(page.evaluate("Report.drawn.plot.series.slice(1).map(s => s.show)")) == {True}


def test_quantity_and_axes_change_what_is_drawn(window):
    page = window.open(VIEWS["curves"])
    settled(page)

    def state():
        return page.evaluate(
            "[Report.drawn.plot.data[0].slice(-1)[0], Report.drawn.plot.data[1].slice(-1)[0], Report.drawn.plot.scales.y.distr]"
        )

    last, error, scale = state()
    assert (last, scale) == (30, 3)
    page.get_by_label("Quantity").select_option("stable_rank")
    settled(page)
    assert state()[1] != error
    assert state()[2] == 1, "ranks have a linear axis"
    page.get_by_label("Quantity").select_option("loss")
    page.get_by_label("Across", exact=True).select_option("seconds")
    settled(page)
    assert 0 < state()[0] < 1, "thirty steps take less than a second"
    page.get_by_label("Axis up").select_option("linear")
    page.get_by_label("Axis across").focus()
    page.get_by_label("Axis across").select_option("linear")
    settled(page)
    assert state()[2] == 1
    assert page.evaluate("Report.drawn.plot.scales.x.distr") == 1
    assert page.evaluate("document.activeElement.labels[0].textContent") == "Axis across", "a control that was used keeps the focus"
    page.get_by_label("Optimizer").select_option("adam")
    assert all("adam" in text for text in window.texts(".legend .name"))
    page.get_by_label("Problem", exact=True).select_option("matrix_completion")
    page.wait_for_function("document.querySelector('#problem h1').textContent === 'matrix_completion'")


def test_values_are_read_by_pointer_and_by_keys_and_as_a_table(window):
    page = window.open(VIEWS["curves"])
    settled(page)
    rest = window.texts(".legend .value")
    page.locator(".plot .u-over").hover(position={"x": 120, "y": 80})
    assert window.texts(".where")[0].startswith("At step")
    assert window.texts(".legend .value") != rest
    page.mouse.move(2, 2)
    plot = page.locator(".plot")
    plot.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert window.texts(".where")[0] == "At step 1"
    assert page.locator("#status").inner_text().startswith("At step 1: ")
    page.keyboard.press("Escape")
    assert window.texts(".where")[0] == "At the end"
    described = page.locator("#" + plot.get_attribute("aria-describedby")).text_content()
    assert described.startswith("Lines of 4 methods: relative error")
    page.get_by_role("button", name="Show as table").click()
    assert page.locator(".chart table tbody tr").first.locator("th").inner_text() == "0"
    assert page.locator(".chart table thead th").count() == 5


def test_rates_show_the_window_the_chosen_one_and_what_diverged(window):
    page = window.open(VIEWS["rates"])
    strips = page.locator(".strips li")
    assert strips.count() == 4
    full = page.locator(".strips li", has_text="full + sgd")
    assert full.locator(".dot").count() == 3
    assert full.locator(".dot.chosen").count() == 1
    assert full.locator(".dot.partly").count() == 1
    assert "2 of 2 seeds diverged" in full.locator(".dot.partly").get_attribute("title")


def test_profiles_and_probabilities_follow_what_is_chosen(window):
    page = window.open(VIEWS["across"])
    page.wait_for_selector("#across canvas")
    first = page.evaluate("JSON.stringify(Report.drawn.plot.data)")
    page.get_by_label("Target").select_option("steps_to_1e-01")
    assert page.evaluate("JSON.stringify(Report.drawn.plot.data)") != first
    assert "Better than lora + adam" in window.texts("#across thead th")[1]
    page.get_by_label("Baseline").select_option("full + sgd")
    assert "Better than full + sgd" in window.texts("#across thead th")[1]
    assert page.locator("#across tbody tr").count() == 3


def test_the_theme_can_be_toggled_and_follows_the_system(window, chromium, folder):
    page = window.open(VIEWS["curves"])
    settled(page)
    ground, before = page.evaluate("getComputedStyle(document.body).backgroundColor"), picture(page)
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    settled(page)
    assert picture(page) != before, "the chart is drawn again"
    page.get_by_role("button", name="Light theme").click()
    dark = Window(chromium, folder, DESKTOP, "dark")
    assert dark.open().evaluate("document.documentElement.dataset.theme") == "dark"
    dark.context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_has_no_page_to_scroll_sideways(chromium, folder, view):
    phone = Window(chromium, folder, PHONE, "light")
    page = phone.open(VIEWS[view])
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert phone.complaints == []
    phone.context.close()


def test_a_cell_fits_a_phone_too(chromium, folder):
    phone = Window(chromium, folder, PHONE, "dark")
    page = phone.open("cell=" + overview_of(folder)["cells"]["key"][0])
    page.wait_for_selector("#command")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    phone.context.close()


def test_the_keyboard_reaches_the_main_controls(window):
    page = window.open("view=overview")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(e => e.id || e.textContent.trim().slice(0, 30))(document.activeElement)"))
        if page.evaluate("document.activeElement.classList.contains('entry')"):
            break
    assert reached[0] == "Skip to the content"
    for name in ("Problems", "How to read this", "theme", "search", "Optimizers: 2 of 2", "Method ↕"):
        assert any(name.startswith(each) for each in reached if each), (name, reached)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(
        "[document.activeElement.closest('td').cellIndex, document.activeElement.closest('tr').sectionRowIndex]"
    ) == [2, 1]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus can be seen"
    page.keyboard.press("Enter")
    page.wait_for_selector("#command")


def test_the_header_can_be_skipped_and_the_address_stays(window):
    page = window.open("view=help")
    address = page.url
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url == address


def test_controls_have_names_and_headings_have_scopes(window):
    for view in VIEWS.values():
        page = window.open(view)
        settled(page)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('main select, main input, main button, main a')].filter(e => e.offsetParent)
            .filter(e => !(e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML)"""
        )
        assert nameless == []
        assert page.locator("table th:not([scope])").count() == 0
        identifiers = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(identifiers) == len(set(identifiers))


def test_a_missing_piece_is_named_in_words(store, chromium, tmp_path):
    report.write(store, store.keys(), tmp_path, "tiny")
    (tmp_path / "data" / "problem-0.js").unlink()
    window = Window(chromium, tmp_path, DESKTOP, "light")
    page = window.page
    page.goto((tmp_path / "index.html").as_uri() + "#view=problem&problem=matrix_completion")
    page.wait_for_selector("#trouble:visible")
    assert "data/problem-0.js is missing" in page.locator("#trouble").inner_text()
    window.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_are_taken_for_whoever_wants_to_look(chromium, folder, tmp_path, scheme):
    out = Path(os.environ.get("REPORT_SCREENSHOTS", tmp_path))
    window = Window(chromium, folder, DESKTOP, scheme)
    for view in ("overview", "curves"):
        page = window.open(VIEWS[view])
        settled(page)
        path = out / f"{view}-{scheme}.png"
        page.screenshot(path=path, full_page=True)
        assert path.stat().st_size > 20_000, "an empty page is smaller"
    window.context.close()


# --- pictures


def png(level: int) -> bytes:
    written = io.BytesIO()
    Image.new("L", (32, 32), level).save(written, "png")
    return written.getvalue()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A report in which one problem's cells have pictures, but for one that has none, and another problem's have not."""
    store = Store(tmp_path_factory.mktemp("gallery"))
    for problem in (MatrixFactorization(shape=(10, 8)), MatrixCompletion(shape=(12, 10), rank=2, observed=0.6)):
        for parameterization, optimizer in ((LoRA(rank=2), SGD()), (LoRA(rank=2), Adam()), (Full(), SGD())):
            made = Cell(problem, parameterization, optimizer, RATES, (0,), (100, 101), steps=10)
            result = made.run()
            if isinstance(problem, MatrixFactorization) and isinstance(parameterization, LoRA):
                sets = {"held out": 250, "pretrained": 120, "adapted": 60}
                rows = [
                    {"seed": 100, "set": name, "index": i, "png": png(level - i)} for name, level in sets.items() for i in range(12)
                ]
                result = dataclasses.replace(result, pictures=pd.DataFrame(rows))
            store.save(made.key, made, result, time.time(), time.process_time())
    return report.write(store, store.keys(), tmp_path_factory.mktemp("pictures"), "gallery").parent


@pytest.fixture
def salon(chromium, gallery):
    opened = Window(chromium, gallery, DESKTOP, "light")
    yield opened
    opened.context.close()
    assert opened.complaints == []


SAMPLES = "view=problem&problem=matrix_factorization&chart=samples"


def test_samples_have_a_row_a_method_below_those_that_all_share(salon):
    page = salon.open(SAMPLES)
    rows = salon.texts(".samples tbody th")
    assert rows[:2] == ["held out", "pretrained"]
    assert sorted(rows[2:]) == ["full + sgd", "lora + adam", "lora + sgd"]
    assert page.locator(".samples tr", has_text="lora + adam").locator("img").count() == 10
    assert page.locator(".samples tr", has_text="full + sgd").locator("td").inner_text() == "No pictures were kept."
    assert page.locator(".samples th .swatch").count() == 3
    assert page.locator(".samples img").first.get_attribute("alt") == "held out, picture 1"
    sizes = page.evaluate(
        "[...document.querySelectorAll('.samples img')].map(e => [e.naturalWidth, e.width, getComputedStyle(e).imageRendering])"
    )
    assert sizes == [[32, 64, "pixelated"]] * 40
    assert "A column is of one noise" in page.locator("#problem figcaption").inner_text()


def test_samples_follow_the_methods_that_are_chosen(salon):
    page = salon.open(SAMPLES)
    page.get_by_label("Optimizer").select_option("adam")
    assert salon.texts(".samples tbody th") == ["held out", "pretrained", "lora + adam"]
    page.get_by_label("Optimizer").select_option("all")
    page.get_by_role("link", name="Curves").click()
    page.locator(".legend li button", has_text="lora + adam").click()
    page.get_by_role("link", name="Samples").click()
    page.wait_for_selector(".samples")
    assert "lora + adam" not in salon.texts(".samples tbody th")
    page.get_by_role("button", name="Show all 3 methods").click()
    assert "lora + adam" in salon.texts(".samples tbody th")


def test_a_problem_without_pictures_has_no_samples(salon):
    page = salon.open(SAMPLES)
    page.get_by_label("Problem", exact=True).select_option("matrix_completion")
    page.wait_for_function("document.querySelector('#problem h1').textContent === 'matrix_completion'")
    page.wait_for_selector(".plot canvas")
    assert salon.texts(".tabs [aria-current]") == ["Curves"], "what it lacks falls back to what it has"
    assert "Samples" not in salon.texts(".tabs a")


def test_a_cell_has_its_own_samples_or_none(salon):
    overview = overview_of(salon.folder)
    names = [[each["name"] for each in overview[axis]] for axis in ("problems", "methods")]
    for key, problem, method in zip(*(overview["cells"][name] for name in ("key", "problem", "method")), strict=True):
        page = salon.open(f"cell={key}")
        page.wait_for_selector("#command")
        headings, rows = salon.texts("#cell h2"), salon.texts("#cell .samples tbody th")
        if names[0][problem] == "matrix_factorization":
            assert headings[0] == "Samples"
            assert rows == ["held out", "pretrained", names[1][method]]
        else:
            assert "Samples" not in headings
            assert rows == []


def test_samples_scroll_in_a_box_of_their_own_on_a_phone(chromium, gallery):
    phone = Window(chromium, gallery, PHONE, "dark")
    page = phone.open(SAMPLES)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate("(e => e.scrollWidth > e.clientWidth)(document.querySelector('.samples'))")
    assert phone.complaints == []
    phone.context.close()
