"""The decoders: each reads one kind of video in one file of this folder.

To add one: write a class in a new file here, name it in ``DECODERS``, and for a folder of frames
name its file endings in ``vadprep.data.sources.FRAME_SUFFIXES`` (see the room's README).
"""

from __future__ import annotations

from vadprep.video.decoders.base import Decoder, FolderDecoder
from vadprep.video.decoders.decord import DecordDecoder
from vadprep.video.decoders.images import ImageFolder
from vadprep.video.decoders.pyav import PyAVDecoder

DECODERS: dict[str, type[Decoder]] = {
    "decord": DecordDecoder,
    "pyav": PyAVDecoder,
    "images": ImageFolder,
}
"""Name -> decoder. Of a folder, the first FolderDecoder that finds its file endings reads it."""

FILE_DECODERS = tuple(
    name for name, decoder in DECODERS.items() if not issubclass(decoder, FolderDecoder)
)
"""Names of the decoders of video files: what a spec's field ``decoder`` may list."""

FOLDER_DECODERS = {
    name: decoder for name, decoder in DECODERS.items() if issubclass(decoder, FolderDecoder)
}
"""Name -> decoder of folders of frames."""
