"""The documentation as a browser shows it.

The site is built strictly, with everything that MkDocs can warn of, and each
page is opened in Debian's Chromium, without a window: wide and light, narrow
and dark. Without MkDocs, Chromium or Selenium these tests are skipped.
"""

import functools
import html.parser
import http.server
import importlib
import inspect
import json
import pathlib
import shutil
import threading
import urllib.parse

import pytest
from small import output_of

import keras_wake

ROOT = pathlib.Path(__file__).parents[2]
pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")
pytest.importorskip("latex2mathml")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    build = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir")
    output_of(*build, folder, cwd=ROOT, timeout=300)
    return folder


def pages(site):
    """The pages by their paths below the site."""
    return sorted(
        path.relative_to(site).as_posix()
        for path in site.rglob("*.html")
        if path.name != "404.html"
    )


def public_names():
    """Every public name of the package, as the reference calls it."""
    found = ["keras_wake.WakeModel"]
    for area in keras_wake.__all__:
        module = getattr(keras_wake, area)
        if not inspect.ismodule(module):
            continue
        module = importlib.import_module(f"keras_wake.{area}")
        own = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
        ]
        names = getattr(module, "__all__", own)
        found += [f"keras_wake.{area}.{name}" for name in names]
    return sorted(found)


class Elements(html.parser.HTMLParser):
    """The elements of a page, as triples of page, name and attributes."""

    def __init__(self, site, page):
        super().__init__()
        self.page, self.found = page, []
        self.feed((site / page).read_text())

    def handle_starttag(self, tag, attributes):
        self.found.append((self.page, tag, dict(attributes)))


def elements(site):
    return [e for page in pages(site) for e in Elements(site, page).found]


def test_images_have_alternative_text(site):
    images = [element for element in elements(site) if element[1] == "img"]
    assert images
    for page, _, attributes in images:
        assert len(attributes.get("alt") or "") > 10, (page, attributes)


def test_nothing_is_loaded_from_elsewhere(site):
    for page, tag, attributes in elements(site):
        key = {"link": "href", "a": ""}.get(tag, "src")
        where = attributes.get(key) or ""
        if attributes.get("rel") not in ("canonical", "next", "prev"):
            assert not urllib.parse.urlparse(where).netloc, (page, tag, where)


def test_examples_of_docstrings_are_code(site):
    page = (site / "api" / "theory.html").read_text()
    assert '<span class="gp">&gt;&gt;&gt;' in page
    for page in (site / "api").glob("*.html"):
        # What Markdown makes of `>>>` in text.
        assert "<blockquote>" not in page.read_text(), page


def test_reference_and_search_have_every_public_name(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    places = {entry["location"].partition("#")[2] for entry in index["docs"]}
    names = public_names()
    assert len(names) > 60
    methods = [f"keras_wake.WakeModel.{m}" for m in ("fit", "teacher_in_use")]
    assert [name for name in names + methods if name not in places] == []


# --- In the browser ---------------------------------------------------------


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = map(shutil.which, ("chromium", "chromedriver"))
    if not (chromium and driver):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"),
        *("disable-background-networking", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{argument}")
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    service = webdriver.ChromeService(executable_path=driver)
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_page_load_timeout(30)
    yield browser
    browser.quit()


def look(browser, width, scheme):
    """Sets the width of the screen and the colour scheme of the reader."""
    # The site remembers the scheme of an earlier visit.
    browser.get("about:blank")
    for command, parameters in (
        (
            "Storage.clearDataForOrigin",
            {"origin": "*", "storageTypes": "local_storage"},
        ),
        (
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": 900,
                "deviceScaleFactor": 1,
                "mobile": width < 600,
            },
        ),
        (
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        ),
    ):
        browser.execute_cdp_cmd(command, parameters)


def outside(browser, *inside):
    """Addresses elsewhere, of those asked for since the last look."""
    messages = (
        json.loads(entry["message"])["message"]
        for entry in browser.get_log("performance")
    )
    return [
        url
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        and not (url := message["params"]["request"]["url"]).startswith(
            (*inside, "data:", "blob:")
        )
    ]


# Images that did not load, formulas that are not shown, text that should have
# been one, the width of the content, the scheme and the ground of the page.
STATE = r"""
const done = arguments[0];
for (const image of document.images) image.loading = "eager";
Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(
  () => {
    const text = document.querySelector("article").cloneNode(true);
    text.querySelectorAll("pre, code, script").forEach(e => e.remove());
    done({
      broken: [...document.images].filter(i => !i.naturalWidth)
        .map(i => i.src),
      formulas: [...document.querySelectorAll("math")]
        .map(m => m.getBoundingClientRect().height),
      tex: (text.textContent.match(/\\[([a-z]+|\$[^$]*\\/g) || []),
      width: document.documentElement.scrollWidth,
      scheme: document.body.getAttribute("data-md-color-scheme"),
      ground: getComputedStyle(document.body).backgroundColor,
    });
  });
"""


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_look_right(browser, address, site, width, scheme):
    look(browser, width, scheme)
    browser.get_log("browser")
    browser.get_log("performance")
    formulas = 0
    for page in pages(site):
        browser.get(address + page)
        state = browser.execute_async_script(STATE)
        assert state["broken"] == [], page
        assert state["tex"] == [], page
        assert all(height > 4 for height in state["formulas"]), page
        formulas += len(state["formulas"])
        # Nothing sticks out; wide tables and code scroll by themselves.
        assert state["width"] <= width, page
        expected = {"light": "default", "dark": "slate"}[scheme]
        assert state["scheme"] == expected, page
        red = int(state["ground"].split("(")[1].split(",")[0])
        assert (red > 200) == (scheme == "light"), (page, state["ground"])
        complaints = [
            entry
            for entry in browser.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]
        assert complaints == [], page
        assert outside(browser, address) == [], page
    assert formulas


def search(browser, words, place):
    """Searches for words until a place is among what is found."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    field = browser.find_element(By.CSS_SELECTOR, ".md-search__input")
    browser.execute_script(
        """arguments[0].focus(); arguments[0].value = arguments[1];
        for (const name of ["keyup", "input"])
          arguments[0].dispatchEvent(new Event(name, {bubbles: true}));""",
        field,
        words,
    )

    def is_found(_):
        links = browser.execute_script(
            """return [...document.querySelectorAll(
              ".md-search-result__link")].map(a => a.href)"""
        )
        return any(link.endswith(place) for link in links)

    WebDriverWait(browser, 20, poll_frequency=0.05).until(
        is_found, f"The search for {words} does not find {place}."
    )


def test_search_finds_every_public_name(browser, address):
    look(browser, 1280, "light")
    browser.get(address)
    for name in public_names():
        short = name.rpartition(".")[2]
        # Too common a word to be among the first; the index has it.
        if short != "get":
            search(browser, short, f"#{name}")


def test_site_and_its_search_work_as_files(browser, site):
    look(browser, 1280, "light")
    browser.get_log("performance")
    browser.get((site / "index.html").as_uri())
    search(browser, "WakeModel", "#keras_wake.WakeModel")
    assert outside(browser, "file:") == []


def test_sliders_show_the_closed_form(browser, address):
    look(browser, 1280, "light")
    browser.get(f"{address}tutorials/theory.html")
    for epsilon, beta, sigma in ((0.1, 0.1, 1.0), (0.3, 0.15, 0.5)):
        shown = browser.execute_script(
            """for (const [name, value] of Object.entries(arguments[0])) {
              const input = document.querySelector(
                `.synthetic input[name=${name}]`);
              input.value = value;
              input.dispatchEvent(new Event("input"));
            }
            return document.querySelector(".synthetic output").textContent;""",
            {"epsilon": epsilon, "beta": beta, "sigma": sigma},
        )
        model = keras_wake.theory.SyntheticModel(sigma=sigma)
        hard = model.optimal_weights(epsilon)[1]
        smooth = model.optimal_weights(epsilon, beta)[1]
        assert f"{hard:.3f}" in shown and f"{smooth:.3f}" in shown, shown
    marks = browser.execute_script(
        """return [...document.querySelectorAll(".synthetic svg text")]
          .map(t => t.textContent).filter(t => t.startsWith("ε"))"""
    )
    model = keras_wake.theory.SyntheticModel(sigma=0.5)
    assert f"ε0 = {model.critical_epsilon():.3f}" in marks
    assert f"ε1 = {model.critical_epsilon(0.15):.3f}" in marks
