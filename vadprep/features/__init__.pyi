from .compare import compare_features as compare_features
from .draft import Draft as Draft, write_failure as write_failure
from .exchange import export_features as export_features, import_features as import_features
from .folder import StreamFolder as StreamFolder, stream_folders as stream_folders
from .journal import Event as Event, Row as Row, read_events as read_events, read_rows as read_rows
from .lease import Lease as Lease, Run as Run, leased as leased
from .merge import merge as merge
from .reader import (
    STREAM_CHOICES as STREAM_CHOICES,
    Features as Features,
    VideoFeatures as VideoFeatures,
    open_features as open_features,
    read_snippets as read_snippets,
    streams_of as streams_of,
)
from .shard import (
    DONE as DONE,
    FAILED as FAILED,
    StoredVideo as StoredVideo,
)
from .status import (
    Status as Status,
    Verification as Verification,
    status as status,
    stream_status as stream_status,
    verify as verify,
    verify_stream as verify_stream,
)
from .writer import Share as Share, StreamWriter as StreamWriter
