"""The page of results says what the files of results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_written_from_the_files(tmp_path: Path) -> None:
    """A figure of docs/results.md would have been changed by hand, or an experiment been run again
    without the page.
    """
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'benchmarks');"
        "from results_page import page; print(page(Path('docs/results')), end='')"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
