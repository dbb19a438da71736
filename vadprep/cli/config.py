"""The options of a run as a file: ``run.yaml`` is written with every extraction, and ``--config``
reads it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vadprep import __version__
from vadprep.core.atomic import open_atomic
from vadprep.core.errors import SettingError
from vadprep.core.spec import STREAMS
from vadprep.core.untrusted import read_regular

RUN_FILE = "run.yaml"
"""Name of the file in the feature folder."""

MAX_BYTES = 1 << 20
EITHER = (("videos", "manifest", "dataset"), ("gpus", "workers"))
"""Options of which one is given: one on the command line replaces another in the file."""

PLACES = ("weights", "flow_weights", "split_file")
"""Parameters that may name a file."""
OF_ONE_CALL = (
    *("config", "help", "dry_run", "retry_failed", "quiet", "verbose"),
    *("rank", "world_size"),  # the file repeats the run as a whole
)
"""Parameters that are not written."""


def arguments_of(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """The arguments that the file of ``--config`` in ``args`` stands for, without those that
    ``args`` replace. Raises SettingError that names file and key for what is no option."""
    given = command.make_parser(ctx).parse_args(args=list(args))[0]
    if not given.get("config"):
        return []
    path = Path(given["config"])
    replaced = {name for each in EITHER if given.keys() & set(each) for name in each}
    options = {
        name.removeprefix("--"): each
        for each in command.params
        for name in each.opts
        if name.startswith("--") and each.name not in ("config", "help")
    }
    found = []
    for key, value in read_run(path).items():
        name = str(key).replace("_", "-")
        if name not in options:
            near = difflib.get_close_matches(name, options, 1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(options)}"
            raise SettingError(f"{path}: {key!r} is no option of {command.name}: {hint}")
        option = options[name]
        if option.name not in replaced:
            found += [f"--{name}{text}" for text in _texts(option, value, f"{path}: {key}")]
    return found


def _texts(option: click.Parameter, value: Any, where: str) -> Iterator[str]:
    """What follows the name of an option for a value of the file, for each time it is given."""
    if isinstance(option, click.Option) and option.is_flag:
        if not isinstance(value, bool):
            raise SettingError(f"{where}: {value!r}: expected true or false")
        yield from [""] * value
        return
    pairs = value if isinstance(value, dict) and option.multiple else {}  # set: {tail: drop}
    values = list(pairs.values()) or (value if isinstance(value, list) else [value])
    if not all(type(each) in (str, int, float) for each in values if each is not None):
        raise SettingError(f"{where}: expected a text, a number, or a list of them")
    texts = [str(each) for each in values if each is not None]
    if pairs:
        texts = [f"{name}={each}" for name, each in pairs.items()]
    yield from (
        f"={each}" for each in (texts if option.multiple else [",".join(texts)] if texts else [])
    )


def read_run(path: Path) -> dict[str, Any]:
    """What a file of options holds. Raises SettingError when it is none."""
    import yaml

    try:
        content = read_regular(path, SettingError, MAX_BYTES)
        if b"<<" in content:  # merged mappings can grow without bound
            raise ValueError("keys << are not read")
        values = yaml.safe_load(content)
    except SettingError:
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"{path}: cannot be read as YAML: {reason}") from None
    if not isinstance(values, dict):
        raise SettingError(f"{path}: expected a line for each option, such as crops: 5")
    return values


def write_run(ctx: click.Context, out: Path, preset: str, streams: Sequence[str]) -> None:
    """Write ``out/run.yaml``, the options of the command that runs in ``ctx``; paths are absolute.

    A run that adds a stream is written as one that makes the earlier streams as well. Raises
    OutputError when the disk refuses.
    """
    import yaml

    values: dict[str, Any] = {}
    for option in ctx.command.params:
        name, value = str(option.name), ctx.params.get(str(option.name))
        is_named = ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        if name == "root":
            is_named = not ctx.params["videos"]
        if is_named and value not in (None, False, ()) and name not in OF_ONE_CALL:
            is_place = isinstance(value, Path) or (name in PLACES and os.path.exists(value))
            value = os.path.abspath(value) if is_place else value
            value = int(value) if str(value).isdecimal() else value
            values[option.opts[0].removeprefix("--")] = (
                list(value) if isinstance(value, tuple) else value
            )
    values |= {"out": os.path.abspath(out), "preset": preset}
    path, earlier = out / RUN_FILE, dict[str, Any]()
    with suppress(SettingError):
        earlier = read_run(path) if path.exists() else {}
    if all(earlier.get(name) == values.get(name) for name in EITHER[0]):
        had = str(earlier.get("streams")).split(",")
        if set(had) - set(streams):
            others = {name for name in EITHER[1] if values.keys() & set(EITHER[1])}
            values = {key: each for key, each in earlier.items() if key not in others} | values
        streams = [each for each in STREAMS if each in (*had, *streams)]
    values["streams"] = ",".join(streams)
    text = yaml.safe_dump(values, sort_keys=False)
    head = f"# made by vadprep {__version__}; to repeat it: vadprep extract --config {RUN_FILE}\n"
    with open_atomic(path) as stream:
        stream.write((head + text).encode())
