"""A video file, or a folder of frames, becomes frames; frames are resized and cropped."""

from typing import TYPE_CHECKING

from vadprep.core.lazy import lazy

if TYPE_CHECKING:
    from vadprep.video.decoders import DECODERS, FILE_DECODERS
    from vadprep.video.decoders.base import Decoder, VideoHeader
    from vadprep.video.frame_count import MAX_DAMAGE, MAX_FPS, MIN_FPS, FrameCounts, length_note
    from vadprep.video.frame_stream import DecodeReport, FrameStream, count_frames, open_frames
    from vadprep.video.transforms import FrameTransform, crop

__all__ = [
    "DECODERS",
    "FILE_DECODERS",
    "MAX_DAMAGE",
    "MAX_FPS",
    "MIN_FPS",
    "DecodeReport",
    "Decoder",
    "FrameCounts",
    "FrameStream",
    "FrameTransform",
    "VideoHeader",
    "count_frames",
    "crop",
    "length_note",
    "open_frames",
]

if not TYPE_CHECKING:  # so that a type checker knows the names
    __getattr__ = lazy(
        __name__,
        {
            "decoders": ["DECODERS", "FILE_DECODERS"],
            "decoders.base": ["Decoder", "VideoHeader"],
            "frame_count": ["MAX_DAMAGE", "MAX_FPS", "MIN_FPS", "FrameCounts", "length_note"],
            "frame_stream": ["DecodeReport", "FrameStream", "count_frames", "open_frames"],
            "transforms": ["FrameTransform", "crop"],
        },
    )
