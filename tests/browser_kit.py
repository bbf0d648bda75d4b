"""How a browser lays a page out: Chromium, without a window; tests that need it are skipped."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

# Of a common telephone, px.
TELEPHONE = 390

# A frame is as narrow as one likes, which a window is not.
_FRAME = """<iframe id="frame" style="width: {width}px; height: 900px; border: 0"
srcdoc="{page}"></iframe><pre id="said"></pre><script>
frame.onload = () => {{
  const page = frame.contentDocument;
  const scrolls = [...page.querySelectorAll(".scroll")].filter(
    (one) => one.scrollWidth > one.clientWidth + 1);
  const bars = [...page.querySelectorAll("svg.track")].filter((one) => one.clientWidth > 0);
  said.textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    scrolled: scrolls.map((one) => one.textContent.replace(/\\s+/g, " ").slice(0, 60)),
    bars: bars.length,
  }});
}};
</script>"""


@dataclass(frozen=True)
class Layout:
    """A page in a window of some width.

    Attributes:
        width: that the page takes, px.
        scrolled: the beginnings of those parts of which only a part is seen.
        bars: how many bars beside a figure are seen.
    """

    width: int
    scrolled: list[str]
    bars: int


def laid_out(page: str, width: int = TELEPHONE) -> Layout:
    """The layout of a page at a width in px."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to lay a page out: install it")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frame.html"
        file.write_text(_FRAME.format(width=width, page=html.escape(page)), "utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=2000"]
        done = subprocess.run(
            [*command, file.as_uri()], capture_output=True, text=True, timeout=120
        )
    said = re.search(r'<pre id="said">(.+?)</pre>', done.stdout, re.DOTALL)
    assert said is not None, done.stderr
    return Layout(**json.loads(html.unescape(said[1])))
