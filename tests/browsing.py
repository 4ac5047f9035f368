"""What tests in a real browser share: Chromium, kept from asking anything of a network, and the devices it plays."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

QUIET = [
    *('--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking'),
    *('--disable-component-update', '--disable-sync', '--no-first-run'),
]
DESK = {'viewport': {'width': 1280, 'height': 900}}
PHONE = {'viewport': {'width': 390, 'height': 844}, 'has_touch': True, 'is_mobile': True, 'device_scale_factor': 2}


def expect(found: Any) -> Any:
    """playwright's, which is there where these tests are asked for."""
    from playwright.sync_api import expect as of_playwright

    return of_playwright(found)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """One at a time: playwright allows no second."""
    from playwright.sync_api import sync_playwright

    # Without a Chromium of the system's, the one that playwright installed.
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which('chromium'), args=QUIET)
        yield browser
        browser.close()
