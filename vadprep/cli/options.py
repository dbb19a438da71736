"""Options that several commands share, and the values they become."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vadprep import data
from vadprep.cli.help import advanced
from vadprep.cli.text import note
from vadprep.core.errors import SettingError, counted
from vadprep.core.presets import DATASET_PRESETS

if TYPE_CHECKING:
    from vadprep.extraction.api import Sources

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)
FEATURES = click.Path()
"""A feature folder as a text: it may be a URL."""
COUNT = click.IntRange(1)


class Number(click.FloatRange):
    """A finite number in a range. click's own types let NaN through, which is in no range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


SHARE = Number(0, 1)
PART = Number(0, 1, max_open=True)
POSITIVE = Number(0, min_open=True)
ROOT_HELP = "Folder of the videos. Default: $VADPREP_ROOT, else the current folder."
root_option = click.option(
    "--root", type=FOLDER, envvar="VADPREP_ROOT", default=Path(), help=ROOT_HELP
)
SPLIT_HELP = "CSV with columns video_id,split; or an included list such as ped2-00."
dataset_option = click.option("--dataset", help="Included data set; see vadprep datasets list.")
manifest_option = click.option("--manifest", type=FILE, help="CSV file that lists your videos.")
split_option = advanced("--split-file", help=SPLIT_HELP)
PAGE_HELP = "Folder of the pages for a browser, or none. Default: OUT/page."
page_option = click.option("--page", type=FOLDER, help=PAGE_HELP)
CONFIG_HELP = "File of options, such as run.yaml of an earlier run. Other options replace it."
config_option = advanced("--config", type=FILE, expose_value=False, help=CONFIG_HELP)
videos_option = click.option("--videos", type=PATH, help="Folder with videos, or one video file.")


def level_option(*names: str, level: int, help: str) -> Callable[..., Any]:
    """A flag that sets the level of vadprep's messages; no argument of the command."""

    def set_level(ctx: click.Context, param: click.Parameter, is_set: bool) -> None:
        if is_set:
            logging.getLogger("vadprep").setLevel(level)

    return click.option(*names, is_flag=True, expose_value=False, callback=set_level, help=help)


QUIET_HELP = "Print results and errors only: no progress, notes or warnings."
VERBOSE_HELP = "Print more: every epoch, every video, every corrected interval."
quiet_option = level_option("-q", "--quiet", level=logging.ERROR, help=QUIET_HELP)
verbose_option = level_option("-v", "--verbose", level=logging.DEBUG, help=VERBOSE_HELP)


def message_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-q`` and ``-v``: how much is printed beside the results (``text.is_quiet``)."""
    return quiet_option(verbose_option(command))


def manifest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that name a manifest: ``dataset, manifest, split_file``."""
    return dataset_option(manifest_option(split_option(command)))


def video_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``manifest_options``, or a folder of videos or one video, and the folder of the files."""
    return manifest_options(videos_option(root_option(command)))


def chosen_manifest(
    options: dict[str, Any], choices: str = "--dataset and --manifest", with_paths: bool = True
) -> tuple[data.Manifest, str]:
    """The manifest that exactly one of ``--dataset`` and ``--manifest`` names, and its name.

    Takes its options out of ``options``, and prints warnings about the manifest. ``with_paths`` as
    in ``read_manifest``.
    """
    dataset, path = options.pop("dataset"), options.pop("manifest")
    if (dataset is None) == (path is None):
        raise click.UsageError(f"name the videos by one of {choices}")
    manifest = data.choose_manifest(dataset, path, with_paths)
    if split_file := options.pop("split_file"):
        manifest = data.apply_splits(manifest, data.split_path(split_file))
    warn(manifest)
    return manifest, dataset or path.stem


def chosen_videos(options: dict[str, Any], out: Path | None) -> Sources:
    """As ``chosen_manifest``, or the videos that ``--videos`` names, beside features in ``out``."""
    from vadprep.extraction.api import Sources, find_sources

    videos, root = options.pop("videos"), options.pop("root")
    if videos is None:
        preset = DATASET_PRESETS.get(options["dataset"])
        manifest, name = chosen_manifest(options, "--dataset, --manifest and --videos")
        return Sources(manifest, root, name, preset)
    if any([options.pop(name) for name in ("dataset", "manifest", "split_file")]):
        raise click.UsageError(
            "--videos cannot be combined with --dataset, --manifest, --split-file"
        )
    named_by = click.get_current_context().get_parameter_source("root")
    if named_by is ParameterSource.COMMANDLINE:  # VADPREP_ROOT may be set for other commands
        raise click.UsageError("--videos cannot be combined with --root: it is the root")
    found = find_sources(videos, out=out)
    warn(found.manifest)
    return found


def parsed_fields(fields: Sequence[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` texts as spec fields; whole numbers become ints, but not for ``fps``."""
    return {
        name: int(value) if value.isdecimal() and name != "fps" else value
        for name, value in assignments(fields)
    }


def assignments(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``FIELD=VALUE`` texts as pairs. Raises SettingError for a text without a sign ``=``."""
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise SettingError(f"--set {text}: expected FIELD=VALUE")
        yield name, value


def warn(manifest: data.Manifest) -> None:
    """Print the warnings of a manifest; of notes on single rows their number and the first."""
    if manifest.warnings:
        count = f"{counted(len(manifest.warnings), 'correction')} on reading, the first: "
        note(f"note: {count}{manifest.warnings[0]}")
    for line in (*manifest.likely_typos(), *data.leaks(manifest)):
        note(f"warning: {line}")
