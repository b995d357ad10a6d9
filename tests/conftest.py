"""What all tests share: one thread, and a browser that may be missing only where nobody insists on it."""

import os
import shutil

import hypothesis
import pytest

# Two notebooks at a time can make any test slow: time lives in benchmarks.
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COURSE_STATIC", None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All browser tests on one worker, beside the rest on the other: two browsers at a time only slow each other.

    (pytest-xdist's own groups rename a test, which pytest 9.2 no longer lets them.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class BrowserOnOneWorker(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "browser" if nodeid.startswith("tests/browser/") else nodeid

    return BrowserOnOneWorker(config, log)


def browser_missing(reason: str) -> None:
    """Skip, or fail where COURSE_REQUIRE_BROWSER says that every browser test must run."""
    if os.environ.get("COURSE_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, but COURSE_REQUIRE_BROWSER=1 lets no browser test be skipped")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium of this machine, driven by Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser_missing("playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        browser_missing("no Chromium on the PATH")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
