"""The help, completion, errors and exit codes that all commands share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.commands import message, run

import vadprep
from vadprep.cli import text
from vadprep.cli.main import COMMANDS, SECTIONS, main
from vadprep.core.errors import Stopped, VadprepError


def commands(group: click.Group = main, path: tuple[str, ...] = ()):
    """Every command and group below ``group``: its path of names, and itself."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        yield pytest.param((*path, name), command, id=" ".join((*path, name)))
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize(("path", "command"), list(commands()))
def test_every_command_says_what_it_does_and_has_one_example(path, command):
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert re.search(r"\n\n  [A-Z][^.]*\.", result.output), "no sentence says what it does"
    assert result.output.count("\nExample:\n  vadprep ") == 1
    line = re.search(r"Example:\n  vadprep (.*)\n", result.output)[1]
    assert line.split()[: len(path)] == list(path)
    undocumented = [
        each.name
        for each in command.params
        if isinstance(each, click.Option) and not each.help and not each.hidden
    ]
    assert not undocumented
    options = result.output.partition("\nOptions:")[2].partition("\nExample:")[0]
    assert not re.search(r"\n  [^-\s]\S*\n", options), "an argument, and nothing about it"


FLOATS = (click.types.FloatParamType, click.FloatRange)


def test_no_option_takes_what_is_no_finite_number():
    found = [
        (each, option)
        for each in commands()
        for option in each.values[1].params
        if isinstance(option.type, FLOATS)
    ]
    assert len(found) > 5
    for each, option in found:
        path, command = each.values
        for value in ("nan", "inf", "-inf"):
            with pytest.raises(click.BadParameter, match="not in the range|no.* finite number"):
                option.type_cast_value(click.Context(command), value)
        assert option.type.convert("0.5", option, None) == 0.5, path


@pytest.mark.parametrize("command", ["score", "report"])
def test_a_threshold_that_is_no_number_is_refused_in_one_line(command, tmp_path):
    line = message(run(command, tmp_path, "--threshold", "nan"))
    assert line.endswith("Invalid value for '--threshold': nan is not a finite number.")
    assert not list(tmp_path.iterdir())


def parse(line: str) -> None:
    """Raise what click raises for a command line that is not understood; run nothing."""
    words, command = line.split()[1:], main
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    command.make_context(command.name, words)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("trian ddl", "train"),
        ("gt buidl", "build"),
        ("train dll", "ddl"),
        ("extract --preset xdd", "xd"),
        ("extract --weights random:0 --videos . --set tial=drop", "tail"),
        ("extract --weights random:0 --videos . --set tail=dorp", "drop"),
        ("extract --weights random:0 --videos . --streams rgb,flwo", "rgb,flow"),
        ("extract --weights random:0 --videos . --set filter=pil-linear", "pil-bilinear"),
        ("extract --weights random:0 --videos . --set scaling=imagnet", "imagenet"),
        ("extract --weights random:0 --videos . --set decoder=decrod", "decord"),
        ("import . --layout deepmill --dataset xd", "deepmil"),
        ("import . --layout deepmil --dataset xd --set grph=x", "graph"),
        ("train ddl --dataset xdd", "xd"),
        ("train ddl --dataset xd --features f --set epoch=3", "epochs"),
        ("train ddl --dataset xd --features f --set batches=balaced", "balanced"),
        ("train ddl --dataset xd --schedule smal", "small"),
        ("score . --features f --preset urdum", "urdmu"),
        ("recipes dll", "ddl"),
        ("weights get i3d-rbg", "i3d-rgb"),
        ("extract --vidoes x", "--videos"),
        ("train ddl --dataset ped2 --features f --split-file ped2-0", "ped2-09"),
        ("extract --videos a.mp4 --precision fp61", "fp16"),
        ("extract --videos a.mp4 --weights i3d-rbg", "i3d-rgb"),
        ("extract --videos a.mp4 --weights random:0 --fps natve", "native"),
        ("extract --videos a.mp4 --weights random:0 --set resize=short256", "short 256"),
        ("extract --videos a.mp4 --weights random:0 --set decoder=decrod", "decord"),
        ("extract --videos a.mp4 --weights random:0 --set crop_order=gotham --crops 5", "gowtham"),
        ("extract --videos a.mp4 --weights random:0 --set tail=dorp", "drop"),
        ("train ddl --manifest m.csv --features f --device cdua", "cuda"),
        ("train sultani --manifest m.csv --features f --set sampling=segment", "segments-32"),
    ],
)
def test_a_mistyped_value_gets_what_may_be_meant(line, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").touch()
    Path("m.csv").write_text("video_id,path,split,label\na,a.mp4,train,1\n")
    result = run(*line.split())
    assert result.exit_code == 2
    assert re.search(rf"[Dd]id you mean (one of: )?.*'{re.escape(meant)}'", result.output)


def test_what_is_like_nothing_gets_no_guess():
    assert "did you mean" not in run("qqqq").output + run("train", "qqqq").output


@pytest.mark.parametrize(("path", "command"), list(commands()))
def test_every_example_is_understood(path, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").touch()
    parse(command.example)


def test_the_help_shows_every_command_in_a_section_and_cuts_no_sentence():
    output = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    for heading, found in SECTIONS.items():
        section = output.split(f"\n{heading}:\n")[1].split("\n\n")[0].splitlines()
        width = max(map(len, COMMANDS))
        expected = [f"  {name:{width}}  {line}" for name, (_, line) in found.items()]
        assert section == expected
    for each in ("bench", "datasets", "gt", "weights"):
        shown = CliRunner().invoke(main, [each, "--help"], terminal_width=78).output
        assert "..." not in shown.split("Commands:")[1]


def test_the_list_says_of_a_command_what_the_command_says_of_itself():
    ctx = click.Context(main)
    for name, (_, line) in COMMANDS.items():
        help = main.get_command(ctx, name).help
        assert " ".join(help.split("\n\n")[0].split()) == line


def test_the_help_of_extract_has_few_options_and_the_others_in_a_section_of_their_own():
    plain, advanced = run("extract", "--help").output.split("\nAdvanced options:\n")
    names = [
        re.findall(r"^  (?:-h, )?(--[\w-]+)", each, re.MULTILINE) for each in (plain, advanced)
    ]
    assert len(names[0]) <= 14
    assert names[0][:5] == ["--dataset", "--manifest", "--videos", "--root", "--out"]
    assert {"--set", "--rank", "--world-size", "--save-flow", "--fps"} <= set(names[1])


def modules_after(code: str) -> set[str]:
    """Top-level modules and rooms that are loaded after ``code``."""
    code = f"import sys\n{code}\nprint('LOADED', *sys.modules)"
    root = str(Path(vadprep.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split("LOADED")[1].split())


def test_the_help_loads_nothing_heavy():
    loaded = modules_after(
        "from vadprep.cli.main import main; main(['--help'], standalone_mode=False)"
    )
    assert "vadprep.cli.help" in loaded
    assert not loaded & {"torch", "ray", "matplotlib", "h5py", "rich", "vadprep.features"}


def test_the_help_of_commands_loads_no_torch():
    code = "from vadprep.cli.main import COMMANDS, main\nfor name in COMMANDS:\n"
    code += "    main([name, '--help'], standalone_mode=False)"
    assert not modules_after(code) & {"torch", "ray", "matplotlib", "rich", "av", "decord"}


# ---------------------------------------------------------------- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_made(shell):
    made = CliRunner().invoke(
        main, prog_name="vadprep", env={"_VADPREP_COMPLETE": f"{shell}_source"}
    )
    assert made.exit_code == 0 and "_VADPREP_COMPLETE" in made.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("vadprep ex", ["extract", "export", "export-onnx"]),
        ("vadprep weights ge", ["get"]),
        ("vadprep extract --dr", ["--dry-run"]),
        ("vadprep train dd", ["ddl"]),
    ],
)
def test_names_of_commands_options_and_values_are_completed(words, expected):
    env = {
        "_VADPREP_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    found = CliRunner().invoke(main, prog_name="vadprep", env=env)
    assert [line.split(",")[1] for line in found.output.splitlines()] == expected


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(("error", "code"), [(VadprepError("why"), 2), (Stopped("by"), 75)])
def test_an_error_is_one_line_and_an_exit_code(error, code, monkeypatch):
    def refused(*arguments):
        raise error

    monkeypatch.setattr("vadprep.cli.datasets.show", refused)
    assert message(run("presets"), code) == str(error)


def test_a_package_that_is_missing_is_named(monkeypatch):
    def absent(*arguments):
        raise ModuleNotFoundError("No module named 'ray'", name="ray")

    monkeypatch.setattr("vadprep.cli.datasets.show", absent)
    refused = message(run("presets"))
    assert refused == "this needs the package ray: pip install 'vadprep[all]'"


def test_a_group_alone_shows_its_help_and_no_error():
    result = run("weights")
    assert "\nCommands:\n" in result.output and "Error" not in result.output


def test_the_choices_of_an_option_that_is_missing_stand_in_its_line():
    line = message(run("gt", "build", "--dataset", "ucf"))
    assert line.startswith("Missing option '--rule'. Choose from: xdviodet, floor, ")


def test_an_unknown_command_is_refused():
    assert "No such command 'extrct'" in message(run("extrct"))


# ---------------------------------------------------------------- text


def test_tables_stand_in_columns_numbers_to_the_right(capsys):
    text.show([("name", "count", "mixed"), ("a", 12345, "1 of 2"), ("two\nlines", 7, "x")])
    assert capsys.readouterr().out.splitlines() == [
        "name         count  mixed",
        "a           12,345  1 of 2",
        "two\\nlines       7  x",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(42, "42 s"), (185, "3 min 05 s"), (7 * 3600 + 720, "7 h 12 min")]
)
def test_durations(seconds, shown):
    assert text.duration(seconds) == shown


def test_odd_characters_are_shown_escaped():
    assert text.printable("a\n\x1b\udcffÜ日") == "a\\n\\x1b\\udcffÜ日"
