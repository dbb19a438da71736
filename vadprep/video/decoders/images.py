"""The decoder of folders of images, by Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vadprep.data import FRAME_SUFFIXES
from vadprep.video.decoders.base import FolderDecoder, Frame, check_size


class ImageFolder(FolderDecoder):
    """Images, in natural order of their names. Grey, palette and 16-bit images become RGB."""

    suffixes = FRAME_SUFFIXES["images"]

    def read(self, file: Path) -> Frame | None:
        """The image uint8 [height, width, 3]; None where it cannot be read."""
        from PIL import Image

        try:
            with Image.open(file) as image:
                check_size(file, *image.size)
                return _to_rgb(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None


def _to_rgb(image: Any) -> Frame:
    if image.mode.startswith(("I", "F")):  # 16-bit grey: Pillow would clip it, not scale it
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))
