"""The feature folder: one HDF5 shard for many videos, written, read, checked and merged."""

from vadprep.features.compare import compare_features
from vadprep.features.exchange import export_features, import_features
from vadprep.features.folder import StreamFolder, required_folders, stream_folders
from vadprep.features.journal import Event, Row, read_events, read_rows
from vadprep.features.lease import Lease, Run, leased
from vadprep.features.merge import merge
from vadprep.features.reader import (
    STREAM_CHOICES,
    Features,
    VideoFeatures,
    open_features,
    read_snippets,
    streams_of,
)
from vadprep.features.shard import DONE, FAILED, Draft, Shard, StoredVideo, write_failure
from vadprep.features.status import Status, status, stream_status
from vadprep.features.verify import Verification, verify, verify_stream
from vadprep.features.writer import Share, StreamWriter

__all__ = [
    "DONE",
    "FAILED",
    "STREAM_CHOICES",
    "Draft",
    "Event",
    "Features",
    "Lease",
    "Row",
    "Run",
    "Shard",
    "Share",
    "Status",
    "StoredVideo",
    "StreamFolder",
    "StreamWriter",
    "Verification",
    "VideoFeatures",
    "compare_features",
    "export_features",
    "import_features",
    "leased",
    "merge",
    "open_features",
    "read_events",
    "read_rows",
    "read_snippets",
    "required_folders",
    "status",
    "stream_folders",
    "stream_status",
    "streams_of",
    "verify",
    "verify_stream",
    "write_failure",
]
