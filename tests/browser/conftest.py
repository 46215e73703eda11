"""Fixtures of the browser tests: one browser for all, and pages that may ask nobody."""

import chromium
import pytest
from playwright.sync_api import sync_playwright

HERE = ("http://127.0.0.1:", "http://localhost:", "file:", "data:", "blob:")


@pytest.fixture(scope="session")
def browser():
    """Fails in one sentence, and never skips, where no browser can be had."""
    with sync_playwright() as driver:
        try:
            browser = chromium.launch(driver)
        except chromium.NoBrowser as error:
            pytest.fail(str(error), pytrace=False)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    """new_page(**options of a browser context): a page with three lists of its own.

    `page.errors`: what scripts threw or reported; `page.foreign`: requests to anywhere
    but loopback, refused; `page.alerts`: dialogs that something in the page opened.
    All must be empty when the test ends.
    """
    pages = []

    def new_page(**options):
        page = browser.new_context(**options).new_page()
        page.errors, page.foreign, page.alerts = [], [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda m: m.type == "error" and page.errors.append(m.text))
        page.on("dialog", lambda d: (page.alerts.append(d.message), d.dismiss()))

        def only_here(route):
            url = route.request.url
            if url.startswith(HERE):
                return route.continue_()
            page.foreign.append(url)
            return route.abort()

        page.context.route("**/*", only_here)
        pages.append(page)
        return page

    yield new_page
    for page in pages:
        page.context.close()
    assert not sum((p.errors + p.foreign + p.alerts for p in pages), [])
