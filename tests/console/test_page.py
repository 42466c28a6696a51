"""The console's page in a real browser: what a person sees, clicks and presses."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the extra `console` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("Debian's chromium is not installed (apt-get install chromium)", allow_module_level=True)

from tests.console.desks import Served, StandIn  # noqa: E402 - it needs the extra

AXE = Path(__file__).resolve().parents[2] / "out" / "axe" / "package" / "axe.min.js"
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=120_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(browser: Any, console: Served) -> Iterator[tuple[Any, list[str]]]:
    """One page for all tests, as a person keeps it open, and the errors of its scripts."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(console.address)
    yield page, problems
    context.close()


@pytest.fixture
def page(opened: tuple[Any, list[str]], controller: StandIn) -> Iterator[Any]:
    page, problems = opened
    if controller.heard["stop"]:
        time.sleep(1.0)  # a stop is sent several times: the last of the test before must have come
    controller.show(state="idle", doing="", stopped_by=None, awaits=None, instruction=None, approval=None)
    for heard in controller.heard.values():
        heard.clear()
    page.set_viewport_size({"width": 1280, "height": 720})
    playwright.expect(page.locator("#state")).to_have_text("idle", timeout=60_000)
    page.locator("#instruction").fill("")
    page.evaluate("document.activeElement.blur()")
    yield page
    assert problems == []


def until(page: Any, condition: Callable[[], bool], at_most_s: float = 60.0) -> None:
    end_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < end_s, "it did not become true"
        page.wait_for_timeout(50)


def test_the_token_leaves_the_address(page: Any) -> None:
    assert "token" not in page.url


def test_the_page_shows_pictures(page: Any, controller: StandIn) -> None:
    ended = threading.Event()

    def feed() -> None:
        while not ended.wait(0.1):
            controller.picture()

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        until(page, lambda: page.evaluate("window.frames_shown") > 3)
    finally:
        ended.set()
        feeder.join()


@pytest.mark.parametrize("focus", ["body", "#approve", "#stop", "#moment"])
def test_the_space_bar_stops_and_presses_nothing(page: Any, controller: StandIn, focus: str) -> None:
    controller.ask()
    page.locator("#question").wait_for(state="visible")
    if focus != "body":
        page.evaluate(f"document.querySelector('{focus}').focus()")
    page.keyboard.press("Space")
    until(page, lambda: bool(controller.heard["stop"]))
    assert controller.heard["~/approve"] == []


def test_a_space_that_is_typed_stops_nothing_but_ctrl_space_does(page: Any, controller: StandIn) -> None:
    page.locator("#instruction").click()
    page.keyboard.type("go home")
    assert page.locator("#instruction").input_value() == "go home"
    assert controller.heard["stop"] == []
    page.keyboard.press("Control+Space")
    until(page, lambda: bool(controller.heard["stop"]))


def test_a_yes_goes_to_the_digest_that_is_shown(page: Any, controller: StandIn) -> None:
    awaited = controller.ask()
    playwright.expect(page.locator("#question-text")).to_contain_text(
        "The robot will pick up the red block, 2.0 s of motion"
    )
    page.locator("#approve").click()
    until(page, lambda: controller.heard["~/approve"] == [awaited])


def test_what_the_graph_says_is_text_and_never_markup(page: Any, controller: StandIn) -> None:
    evil = "<img src=x onerror=alert(1)>"
    controller.ask(evil)
    playwright.expect(page.locator("#question-text")).to_contain_text(evil)
    playwright.expect(page.locator("#labels")).to_contain_text(evil)
    assert page.locator("main img").count() == 0


def test_a_refusal_is_said_with_its_numbers(page: Any, controller: StandIn) -> None:
    controller.rehearse(accepted=False)
    playwright.expect(page.locator("#violations")).to_contain_text("left finger with obstacle 1 at 1.20 s, 4.0 mm")
    playwright.expect(page.locator("#bodies")).to_contain_text("red block")


def test_a_reset_waits_for_the_confirmation(page: Any, controller: StandIn) -> None:
    controller.show(state="stopped", stopped_by="a hand on the table")
    page.locator("#reset").click()
    playwright.expect(page.locator("#reset-dialog")).to_contain_text("a hand on the table")
    page.locator("#reset-no").click()
    assert controller.heard["reset"] == []
    page.locator("#reset").click()
    page.locator("#reset-yes").click()
    until(page, lambda: controller.heard["reset"] == [True])


def test_stop_is_in_reach_on_a_phone_wherever_the_page_is_scrolled(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    playwright.expect(page.locator("#stop")).to_be_in_viewport(ratio=1.0)


def test_a_wrong_token_is_said_on_the_page(browser: Any, console: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(console.base + "/#token=wrong")
    playwright.expect(page.locator("#alert")).to_contain_text("token is wrong", timeout=60_000)
    context.close()


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not at hand (.ci/run fetches it with npm)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, console: Served, controller: StandIn, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(console.address)
    controller.ask()
    page.locator("#question").wait_for(state="visible")
    page.add_script_tag(path=str(AXE))
    found = page.evaluate(
        "axe.run().then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.target).join(' ')))"
    )
    context.close()
    assert found == []
