"""The options of a run as a file: ``extract`` and ``train`` write ``run.yaml``, and ``--config``
reads it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vadprep import __version__
from vadprep.core.atomic import open_atomic
from vadprep.core.errors import SettingError, near_miss, without_secrets
from vadprep.core.spec import STREAMS
from vadprep.core.untrusted import read_regular

RUN_FILE = "run.yaml"
"""Name of the file in a feature folder and in a run folder."""

MAX_BYTES = 1 << 20
EITHER = (("videos", "manifest", "dataset"), ("gpus", "workers"))
"""Options of which one is given: one on the command line replaces another in the file."""

PLACES = ("weights", "flow_weights", "split_file", "features", "prompts")
"""Parameters that may name a file or folder."""
OF_ONE_CALL = (
    *("config", "help", "dry_run", "retry_failed", "resume", "quiet", "verbose"),
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
    named = {name for name, value in given.items() if isinstance(value, str | list)}
    replaced = {name for each in EITHER if named & set(each) for name in each}
    replaced |= {each.name for each in command.params if each.name in named and not each.multiple}
    options = {
        name.removeprefix("--"): each
        for each in command.params
        for name in each.opts
        if (isinstance(each, click.Argument) or name.startswith("--"))
        and each.name not in ("config", "help")
    }
    found = []
    for key, value in read_run(path).items():
        name = str(key).replace("_", "-")
        if name not in options:
            hint = near_miss(name, options) or f"; allowed are {', '.join(options)}"
            raise SettingError(f"{path}: {key!r} is no option of {command.name}{hint}")
        option = options[name]
        if option.name not in replaced:
            start = f"--{name}" if isinstance(option, click.Option) else ""
            texts = _texts(option, value, f"{path}: {key}")
            found += [(start + text).removeprefix("=") for text in texts]
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
    if "\0" in "".join(texts):
        raise SettingError(f"{where}: holds a NUL, which no option may")
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
    except (FileNotFoundError, NotADirectoryError):
        raise SettingError(
            f"{path}: not there: the commands extract and train write it, runs in Python do not"
        ) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"{path}: cannot be read as YAML: {reason}") from None
    if not isinstance(values, dict):
        raise SettingError(f"{path}: expected a line for each option, such as crops: 5")
    return values


def write_run(ctx: click.Context, out: Path, **chosen: str | None) -> None:
    """Write ``out/run.yaml``, the options of the command that runs in ``ctx``; paths are absolute.

    ``chosen`` are options that the command has chosen itself. URLs lose user, password and query,
    and the head of the file says so. Raises OutputError when the disk refuses.
    """
    import yaml

    values: dict[str, Any] = {}
    for option in ctx.command.params:
        name, value = str(option.name), ctx.params.get(str(option.name))
        is_named = ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        if name == "root":
            is_named = not ctx.params["videos"]
        value = chosen.get(name, value if is_named else None)
        if value not in (None, ()) and value is not False and name not in OF_ONE_CALL:
            is_place = isinstance(value, Path) or (name in PLACES and os.path.exists(value))
            value = os.path.abspath(value) if is_place else value
            value = int(value) if str(value).isdecimal() else value
            values[option.opts[0].removeprefix("--")] = (
                list(value) if isinstance(value, tuple) else value
            )
    values["out"] = os.path.abspath(out)
    path, command = out / RUN_FILE, f"vadprep {ctx.command.name}"
    text = yaml.safe_dump(_with_earlier_streams(values, path), sort_keys=False, width=math.inf)
    head = f"# made by vadprep {__version__}; to repeat it: {command} --config {RUN_FILE}\n"
    if without_secrets(text) != text:
        head += "# user, password and query of a URL are left out: give that option again\n"
    with open_atomic(path) as stream:
        stream.write((head + without_secrets(text)).encode())


@contextmanager
def forgotten_if_empty(out: Path) -> Iterator[None]:
    """Remove the ``out/run.yaml`` that was written inside, and ``out``, when an exception comes and
    nothing else is there. A file that was there before stays."""
    is_ours = not os.path.lexists(out / RUN_FILE)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if is_ours and os.listdir(out) == [RUN_FILE]:
                (out / RUN_FILE).unlink()
                out.rmdir()
        raise


def _with_earlier_streams(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The options of a run that adds a stream to those in ``path``, as one that makes both."""
    earlier = dict[str, Any]()
    with suppress(SettingError):
        earlier = read_run(path) if path.exists() else {}
    streams, had = (str(each.get("streams")).split(",") for each in (values, earlier))
    is_same = all(earlier.get(name) == values.get(name) for name in EITHER[0])
    if not is_same or not set(had) - set(streams) or "head" in values:
        return values
    others = {name for name in EITHER[1] if values.keys() & set(EITHER[1])}
    kept = {key: each for key, each in earlier.items() if key not in others}
    return kept | values | {"streams": ",".join(s for s in STREAMS if s in (*had, *streams))}
