"""The preset of UR-DMU's script, held against a second form of the script: JPEG files and all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from support import inception
from support.commands import run
from support.ffmpeg import ffmpeg
from support.networks import disturbed_weights
from support.video_features import read_by_opencv

from vadprep.backbones.weights.load import save_weights
from vadprep.features.compare import compare_features
from vadprep.features.reader import open_features

CORNERS = [(0, 0), (0, 116), (16, 58), (32, 0), (32, 116)]


def script_of_urdmu(video: Path, folder: Path, state: dict) -> NDArray[np.float32]:
    """Features [10, n, 1024]: OpenCV decodes and writes JPEG files, Pillow reads and resizes them
    (the horizontal pass first, as its versions up to 12), ten crops of 16 frames at a time."""
    folder.mkdir()
    for number, frame in enumerate(read_by_opencv(video), 1):
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"img_{number:08d}.jpg"), bgr)
    frames = []
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            wide = image.resize((340, image.height), Image.Resampling.LANCZOS)
            resized = np.array(wide.resize((340, 256), Image.Resampling.LANCZOS))
        frames.append(resized.astype(float) * 2 / 255 - 1)
    frames += [frames[-1]] * (-len(frames) % 16)
    clips = np.stack(frames).reshape(-1, 16, 256, 340, 3)
    pictures = [clips, clips[..., ::-1, :]]
    crops = [each[:, :, y : y + 224, x : x + 224] for each in pictures for y, x in CORNERS]
    views = torch.from_numpy(np.stack(crops)).float().permute(0, 1, 5, 2, 3, 4)
    rows = [[inception.reference(state, v[None], eps=1e-5)[0][0] for v in crop] for crop in views]
    return torch.stack([torch.stack(each) for each in rows]).numpy()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_features_of_a_real_clip_are_those_of_the_script(real_clips: Path, tmp_path: Path) -> None:
    """20 frames, a clip and a part of a second. ``vadprep compare`` says equal, but not without the
    JPEG files."""
    (tmp_path / "v").mkdir()
    video = tmp_path / "v" / "a.mp4"
    ffmpeg("-i", real_clips / "v_GGSY1Qvo990.mp4", "-frames:v", 20, "-c:v", "libx264", video)
    weights = disturbed_weights("inception_i3d")
    save_weights(weights, tmp_path / "w.safetensors")
    theirs = script_of_urdmu(video, tmp_path / "frames", weights.state)
    assert theirs.shape == (10, 2, 1024)
    (tmp_path / "theirs").mkdir()
    for number, crop in enumerate(theirs):
        np.save(tmp_path / "theirs" / f"a__{number}.npy", crop)

    def made(name: str, *settings: str) -> Path:
        out = tmp_path / name
        options = ["--preset", "urdmu", "--weights", tmp_path / "w.safetensors", "--workers", 1]
        for each in ("dtype=float32", *settings):
            options += ["--set", each]
        done = run("extract", "--videos", tmp_path / "v", "--out", out, *options)
        assert done.exit_code == 0, done.output
        return out

    ours = made("ours", "frames=jpeg95")
    with open_features(ours) as features:
        found = features["a"].rgb.transpose(1, 0, 2)
    errors = np.linalg.norm(found - theirs, axis=2) / np.linalg.norm(theirs, axis=2)
    print(f"the worst crop {errors.max():.1e}")
    assert errors.max() < 1e-5
    assert compare_features(ours, tmp_path / "theirs").verdict == "equal up to rounding"
    printed = run("compare", ours, tmp_path / "theirs")
    assert printed.exit_code == 0 and "equal up to rounding" in printed.output
    assert compare_features(made("decoded"), tmp_path / "theirs").verdict == "different"
