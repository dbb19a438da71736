"""The decoders: name -> class, each for one kind of video. The README says how to add one."""

from __future__ import annotations

from vadprep.video.decoders.base import Decoder, FolderDecoder, ImageFolder
from vadprep.video.decoders.decord import DecordDecoder
from vadprep.video.decoders.nvdec import NvdecDecoder
from vadprep.video.decoders.pyav import PyAVDecoder

FOLDER_DECODERS: dict[str, type[FolderDecoder]] = {"images": ImageFolder}
"""Of a folder, the first that finds its file endings reads it."""

DECODERS: dict[str, type[Decoder]] = {
    "decord": DecordDecoder, "pyav": PyAVDecoder, "nvdec": NvdecDecoder, **FOLDER_DECODERS,
}  # fmt: skip

FILE_DECODERS = tuple(name for name in DECODERS if name not in FOLDER_DECODERS)
"""Names of the decoders of video files: what a spec's field ``decoder`` may list."""
