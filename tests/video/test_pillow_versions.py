"""The versions of Pillow that pyproject.toml allows give the same numbers, at every place where
vadprep asks Pillow for pixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.videos import write_video

PROGRAM = """
import hashlib, json, sys
from fractions import Fraction
from pathlib import Path
import numpy as np, torch, PIL
from vadprep.core.filters import FILTERS, FLOAT_FILTERS
from vadprep.extraction import extract_video
from vadprep.flow.image_files import NAMES, read_images, write_images
from vadprep.video import FrameTransform, open_frames

folder, work, found = Path(sys.argv[1]), Path(sys.argv[2]), {}

def note(name, values):
    found[name] = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()

frames = np.random.default_rng(0).integers(0, 256, (2, 288, 352, 3), dtype=np.uint8)
for filter in (*FILTERS, *FLOAT_FILTERS):
    transform = FrameTransform(288, 352, "cpu", resize="256x340", filter=filter, frames="jpeg95")
    note(filter, transform.resize(frames))
for kind in ("bmp", "jpg", "png", "tiff", "webp"):
    with open_frames(folder / kind, fps=Fraction(25)) as stream:
        note(kind, np.concatenate([block.copy() for block in stream]))
with write_images(work / "flow", NAMES["jpeg"]) as append:
    append(frames)
note("flow", read_images(work / "flow", NAMES["jpeg"], np.bitwise_not, "")[1](0, 2))
for source in ("a.mp4", "png"):
    options = dict(preset="r3d_18", weights="random:0", device="cpu", settings={"fps": "native"})
    note(f"features of {source}", extract_video(folder / source, **options).rgb)
print(json.dumps([PIL.__version__, found]))
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, and folders of images by the Pillow that is installed."""
    folder = tmp_path_factory.mktemp("pictures")
    write_video(folder / "a.mp4", 16, size=(352, 288))
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (16, 12, 16, 3), dtype=np.uint8)
    frames = [Image.fromarray(each).resize((353, 287), Image.Resampling.BICUBIC) for each in coarse]
    for kind in ("bmp", "jpg", "png", "tiff", "webp"):
        (folder / kind).mkdir()
        for number, frame in enumerate(frames):
            frame.save(folder / kind / f"{number}.{kind}")
    return folder


def run_with(pillow: Path | None, pictures: Path, work: Path) -> tuple[str, dict[str, str]]:
    """The version of Pillow in a process that finds the one in ``pillow`` first, and its hashes."""
    work.mkdir()
    places = [str(each) for each in (pillow, *filter(None, sys.path)) if each]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, pictures, work],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, hashes = json.loads(done.stdout)
    return found, hashes


@pytest.fixture(scope="module")
def installed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found, hashes = run_with(None, pictures, tmp_path_factory.mktemp("installed") / "work")
    assert found == version("pillow")
    return hashes


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("other", ["10", "12", "13"])
def test_another_version_of_pillow_gives_the_same_numbers(
    installed: dict[str, str], pictures: Path, tmp_path: Path, other: str
) -> None:
    """Resized frames, JPEG frames, images of a folder, saved flow, features."""
    if version("pillow").split(".")[0] == other:
        pytest.skip("this version is installed")
    asked = [f"pillow=={other}.*", "--only-binary", ":all:", "--no-deps", "--quiet"]
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "install", *asked, "--target", tmp_path / "pillow"],
        capture_output=True, text=True,
    )  # fmt: skip
    if fetched.returncode:
        pytest.skip(f"pip has no Pillow {other}: {fetched.stderr.strip().splitlines()[-1]}")
    found, hashes = run_with(tmp_path / "pillow", pictures, tmp_path / "work")
    assert found.split(".")[0] == other
    assert hashes == installed
