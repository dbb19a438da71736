"""Pages that open by a double click: one HTML file each, its data inside, without any network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from vadprep.core.atomic import make_folder, open_atomic, write_json
from vadprep.core.errors import VadprepError, printable

ASSETS = ("page.css", "page.js", "run.js", "video.js", "features.js")
"""What all pages share, in the folder ``assets``."""
PLOTLY = "plotly.min.js"
MARK = "page.json"
"""A file that says what the folder is: its previews are no videos to extract."""

SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="connect-src 'none'">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{base}assets/page.css">
</head>
<body>
<main id="page"><noscript>This page needs JavaScript.</noscript></main>
<script id="data" type="application/json">{data}</script>
<script src="{base}assets/plotly.min.js"></script>
<script src="{base}assets/page.js"></script>
<script src="{base}assets/{script}"></script>
</body>
</html>
"""


def write_assets(folder: Path) -> None:
    """Write what all pages of ``folder`` share; raises VadprepError where plotly is missing."""
    try:
        plotly = files("plotly") / "package_data" / PLOTLY
    except ModuleNotFoundError:
        raise VadprepError(
            "the report needs plotly: pip install 'vadprep[train]', or pip install plotly"
        ) from None
    make_folder(folder / "assets")
    own = {name: files("vadprep.evaluation.report") / "assets" / name for name in ASSETS}
    for name, source in {PLOTLY: plotly, **own}.items():
        with open_atomic(folder / "assets" / name) as stream:
            stream.write(source.read_bytes())
    write_json(folder / MARK, {"format": "vadprep-report"})


def write_page(path: Path, script: str, title: str, data: Mapping[str, Any]) -> None:
    """Write a page whose ``script`` shows ``data``, at most one folder below ``assets``.

    Texts in ``data`` are shown as texts, whatever they hold. Raises OutputError when the disk
    refuses.
    """
    base = "" if (path.parent / "assets").exists() else "../"
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c")  # so that no text ends the element
    page = SHELL.format(title=html.escape(printable(title)), data=text, script=script, base=base)
    with open_atomic(path) as stream:
        stream.write(page.encode("utf-8", "replace"))
