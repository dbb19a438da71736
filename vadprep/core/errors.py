"""The family of errors: each message says what happened, where, and what to do."""

from __future__ import annotations


class VadprepError(Exception):
    """What goes wrong in the world around us, in one line that names the remedy.

    ``exit_code`` is what the command line ends with: 2 for what has to be put right before
    anything can run, 1 for what stopped a run, 75 for a stop by a signal.
    """

    exit_code = 2


class SettingError(VadprepError, ValueError):
    """An argument or setting has a value that cannot be used: names it and what is allowed."""


class ManifestError(VadprepError):
    """A manifest or split file has a bad row: names file, line and column."""


class SpecError(VadprepError):
    """Two specs differ where they must not, or a spec asks for what is not there."""


class WeightsError(VadprepError):
    """A weights file is missing, damaged, or made for another network."""


class FeaturesError(VadprepError):
    """A feature folder is missing, mixed or inconsistent."""


class ShardError(FeaturesError):
    """A shard file is damaged or not a shard: names file and video."""


class CheckpointError(VadprepError):
    """A run folder or checkpoint is missing, damaged, or does not fit the features."""


class DecodeError(VadprepError):
    """One video cannot be read. ``kind`` is a word for tables, the message one for people."""

    exit_code = 1

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class OutputError(VadprepError):
    """The output disk is full, gone or not writable. What was committed is safe."""

    exit_code = 1


class LeaseError(VadprepError):
    """Another run works on the same shards, or has taken them over. Nothing is harmed."""

    exit_code = 1


class OutOfMemory(VadprepError):
    """The network does not fit into memory, however small its batches. No video's fault."""

    exit_code = 1


class ClusterError(VadprepError):
    """A Ray cluster cannot be joined, or no node of it can do the work: each with its reason."""


class TrainingError(VadprepError):
    """Training cannot go on, for example at the first loss that is not finite."""

    exit_code = 1


class Stopped(VadprepError):
    """A signal asked for a stop: everything finished is committed, run the command again."""

    exit_code = 75
