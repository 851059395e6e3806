"""Links of the report into the explorer, clicked on a page of another place as the report is one."""

import html

import pytest
from fixtures.browser import open_page

from vlmtrace.pipeline import report_pairs

#: What the finding's link selects.
HEAD = "text_encoder.cross_attention.2.7"

PAIR = "rendered_states-test-0-00006"


@pytest.fixture(scope="module")
def window(browser, app):
    watched = open_page(browser)
    watched.page.goto(app["address"], wait_until="commit")
    watched.page.wait_for_selector(".vt-pair", state="attached", timeout=300_000)
    yield watched
    watched.page.context.close()


def report_with(link, folder):
    page = folder / "index.html"
    page.write_text(f'<!doctype html><meta charset="utf-8"><a href="{html.escape(link)}">Open in the explorer</a>')
    return page.as_uri()


def link_of(app, select):
    address = report_pairs.explorer_link("tiny-blip", PAIR, select)
    assert address.startswith(report_pairs.EXPLORER)
    return address.replace(report_pairs.EXPLORER, f"http://127.0.0.1:{app['port']}/")


def shown(page, select):
    """What the explorer shows once it has followed the link."""
    page.wait_for_function(
        """([pair, select]) => { const v = document.querySelector(".vt-rail-in")?.dataset;
            return v && v.pair === pair && v.busy === "false"
                && document.querySelector(".vt-side-in").dataset.selected === select
                && [...document.querySelectorAll(".vt[data-effects]")].some((e) => e.offsetParent); }""",
        arg=[PAIR, select],
        timeout=240_000,
    )
    assert page.locator(".vt-tab[aria-selected=true]").inner_text() == "Patch"
    assert not page.locator(".vt-toast:visible").count(), "nothing of the address was refused"


@pytest.mark.slow
@pytest.mark.parametrize("select", ["", HEAD], ids=["a listed pair", "a finding about heads"])
def test_a_link_opens_the_right_pair_and_view_in_a_browser_that_has_the_token(window, app, tmp_path, select):
    page = window.page.context.new_page()
    page.goto(report_with(link_of(app, select), tmp_path))
    page.get_by_text("Open in the explorer").click()
    page.get_by_role("link", name="open it here").click()
    shown(page, select)
    page.close()


@pytest.mark.slow
def test_a_link_leads_there_over_the_token(browser, app, tmp_path):
    watched = open_page(browser)
    page = watched.page
    page.goto(report_with(link_of(app, HEAD), tmp_path))
    page.get_by_text("Open in the explorer").click()
    page.get_by_label("Token").fill(app["address"].split("token=")[1])
    page.get_by_role("button", name="Log in").click()
    shown(page, HEAD)
    page.context.close()
