from .decoder_process import (
    bound_resources as bound_resources,
    die_with_parent as die_with_parent,
)
from .decoders import FILE_DECODERS as FILE_DECODERS
from .decoders.base import (
    MAX_FPS as MAX_FPS,
    MIN_FPS as MIN_FPS,
    SIGNS_OF_DAMAGE as SIGNS_OF_DAMAGE,
    Decoder as Decoder,
    VideoHeader as VideoHeader,
)
from .decoders.nvdec import require_nvdec as require_nvdec
from .decoders.pyav import RgbConverter as RgbConverter
from .fork_server import close_idle_servers as close_idle_servers
from .frame_count import (
    MAX_DAMAGE as MAX_DAMAGE,
    expected_frames as expected_frames,
    length_note as length_note,
)
from .frame_stream import (
    FrameStream as FrameStream,
    count_frames as count_frames,
    open_frames as open_frames,
)
from .preview import open_movie as open_movie
from .transforms import (
    FrameTransform as FrameTransform,
    crop as crop,
    first_clips as first_clips,
)
