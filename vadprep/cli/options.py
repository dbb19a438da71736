"""Options that several commands share, and the values they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vadprep.cli.help import advanced
from vadprep.core.presets import DATASET_PRESETS, DEFAULT_PRESET
from vadprep.core.records import Video
from vadprep.data import (
    Manifest,
    apply_splits,
    dataset_names,
    find_videos,
    leaks,
    load_dataset,
    read_manifest,
    split_path,
)
from vadprep.features.remote import as_path

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1)
ROOT_HELP = "Folder of the videos. Default: $VADPREP_ROOT, else the current folder."


class _Features(click.Path):
    """A folder of features, or its URL."""

    def convert(self, value: Any, *context: Any) -> Any:
        is_url = isinstance(value, str) and "://" in value
        return as_path(value) if is_url else super().convert(value, *context)


FEATURES = _Features(path_type=Path)


@contextmanager
def argument_errors() -> Iterator[None]:
    """Turn a ValueError about an argument into a usage error.

    Only around code that checks arguments, never around the work itself: there a ValueError is a
    bug and keeps its traceback.
    """
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@dataclass(frozen=True)
class Videos:
    """The videos that the options name: manifest, root, a name for folders, a preset."""

    manifest: Manifest
    root: Path
    name: str
    preset: str = DEFAULT_PRESET


MANIFEST_OPTIONS = (
    click.option("--dataset", help="Included data set; see vadprep datasets list."),
    click.option("--manifest", type=FILE, help="CSV file that lists your videos."),
    advanced(
        "--split-file", help="CSV with columns video_id,split; or an included list such as ped2-00."
    ),
)


def manifest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that name a manifest: ``dataset, manifest, split_file``."""
    return _with(command, MANIFEST_OPTIONS)


def video_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``manifest_options``, or a folder of videos or one video, and the folder of the files."""
    more = (
        click.option("--videos", type=PATH, help="Folder with videos, or one video file."),
        click.option("--root", type=FOLDER, envvar="VADPREP_ROOT", help=ROOT_HELP),
    )
    return _with(command, MANIFEST_OPTIONS + more)


def _with(command: Callable[..., Any], options: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command


def chosen_manifest(
    options: dict[str, Any], choices: str = "--dataset and --manifest", with_paths: bool = True
) -> tuple[Manifest, str]:
    """The manifest that exactly one of ``--dataset`` and ``--manifest`` names, and its name.

    Takes its options out of ``options``; ``with_paths`` as in ``read_manifest``.
    """
    dataset, path = options.pop("dataset"), options.pop("manifest")
    split_file = options.pop("split_file")
    if (dataset is None) == (path is None):
        raise click.UsageError(f"name the videos by one of {choices}")
    if dataset is not None:
        with argument_errors():
            manifest, name = load_dataset(dataset), dataset
    else:
        manifest, name = read_manifest(path, with_paths), path.stem
    if split_file:
        manifest = apply_splits(manifest, split_path(split_file))
    return manifest, name


def manifest_source(options: dict[str, Any]) -> dict[str, str]:
    """What names the manifest in ``options``, in a form that is valid in any folder."""
    source = {name: options[name] for name in ("dataset", "manifest", "split_file")}
    if source["manifest"]:
        source["manifest"] = source["manifest"].absolute()
    if source["split_file"] and split_path(source["split_file"]) == Path(source["split_file"]):
        source["split_file"] = Path(source["split_file"]).absolute()  # not a bundled one
    return {name: str(value) for name, value in source.items() if value}


def dataset_here() -> str:
    """The one bundled data set that has a feature folder in ./features.

    Raises UsageError for none or several, with their names.
    """
    here = [name for name in dataset_names() if Path("features", name).is_dir()]
    if len(here) == 1:
        return here[0]
    found = f"are features of {', '.join(here)}" if here else "is no included data set"
    raise click.UsageError(
        f"in ./features there {found}: name the videos by one of --dataset "
        f"({', '.join(here or dataset_names())}) and --manifest"
    )


def chosen_videos(options: dict[str, Any]) -> Videos:
    """The videos that exactly one of ``--dataset``, ``--manifest`` and ``--videos`` names.

    Takes its options out of ``options``.
    """
    source, root = options.pop("videos"), options.pop("root")
    if source is None:
        preset = DATASET_PRESETS.get(options["dataset"], DEFAULT_PRESET)
        manifest, name = chosen_manifest(options, "--dataset, --manifest and --videos")
        return Videos(manifest, root or Path(), name, preset)
    if any(options.pop(name) for name in ("dataset", "manifest", "split_file")):
        raise click.UsageError(
            "--videos cannot be combined with --dataset, --manifest, --split-file"
        )
    named_by = click.get_current_context().get_parameter_source("root")
    if named_by is ParameterSource.COMMANDLINE:  # VADPREP_ROOT may be set for other commands
        raise click.UsageError("--videos cannot be combined with --root: it is the root")
    if source.is_file():  # with the id that it has as one of its folder
        alone = Manifest(source, (Video(video_id=source.name, path=source.name),))
        return Videos(alone, source.parent, source.stem)
    return Videos(find_videos(source), source, source.resolve().name)


def parsed_fields(fields: Sequence[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` texts as spec fields; whole numbers become ints, but not for ``fps``."""
    return {
        name: int(value) if value.isdecimal() and name != "fps" else value
        for name, value in assignments(fields)
    }


def assignments(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``FIELD=VALUE`` texts as pairs. Raises ValueError for a text without a sign ``=``."""
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"--set {text}: expected FIELD=VALUE")
        yield name, value


def warn(manifest: Manifest) -> None:
    """Print the warnings of a manifest; of notes on single rows their number and the first."""
    if manifest.warnings:
        count = f"{len(manifest.warnings)} rows were corrected on reading, the first: "
        click.echo(f"note: {count}{manifest.warnings[0]}", err=True)
    for line in (*manifest.likely_typos(), *leaks(manifest)):
        click.echo(f"warning: {line}", err=True)
