"""User, password and query of a URL stand in no output and no file, whatever command gets it."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.attacks import is_plain
from support.commands import without_network
from support.stored import stored_video, write_folder

from vadprep.cli.config import read_run, write_run
from vadprep.cli.main import main
from vadprep.features import remote

SECRET = "hunter2"
URLS = (
    f"http://user:{SECRET}@127.0.0.1:9/xd?key={SECRET}",
    f"https://{SECRET}@127.0.0.1:9/xd",
    f"memory://user:{SECRET}@none/xd?key={SECRET}",
    f"ftp://user:{SECRET}@127.0.0.1:9/x.mp4?{SECRET}",
    f"odd://user:p@{SECRET}@none/xd?key={SECRET}",
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status", "URL"),
    "verify": ("verify", "URL"),
    "merge": ("merge", "URL", "--out", "new"),
    "export": ("export", "URL", "--to", "rtfm", "--out", "new"),
    "compare": ("compare", "URL", "f"),
    "compare as second": ("compare", "f", "URL"),
    "import": ("import", "URL", "--from", "rtfm", "--out", "new"),
    "videos": ("extract", "--videos", "URL", "--weights", "random:0"),
    "out": ("extract", "--videos", ".", "--out", "URL", "--weights", "random:0"),
    "root": ("extract", "--manifest", "m.csv", "--root", "URL", "--weights", "random:0"),
    "manifest": ("extract", "--manifest", "URL", "--weights", "random:0"),
    "weights": ("extract", "--videos", ".", "--weights", "URL"),
    "config": ("extract", "--config", "URL"),
    "paths of a manifest": ("extract", "--manifest", "m.csv", "--weights", "random:0"),
    "check": ("datasets", "check", "m.csv", "--root", "."),
    "show": ("datasets", "show", "URL"),
    "convert": ("weights", "convert", "URL"),
    "weights check": ("weights", "check", "URL"),
    "train": ("train", "ddl", "--manifest", "m.csv", "--features", "URL", "--out", "r"),
    "eval": ("eval", "URL"),
    "score": ("score", "URL", "x.mp4"),
    "labels": ("gt", "check", "URL", "--dataset", "ped2"),
    "no command": ("URL",),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_no_credential_is_shown_or_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote, "WAITS", ())
    write_folder(tmp_path / "f" / "rgb", [stored_video("a")])
    for url in URLS:
        table = f'video_id,path,split,label\na,"{url}",train,0\nb,"{url}",train,1\n'
        (tmp_path / "m.csv").write_text(table)
        arguments = [url if each == "URL" else each for each in COMMANDS[what]]
        with without_network():
            result = CliRunner().invoke(main, arguments, color=True)
        assert result.exception is None or isinstance(result.exception, SystemExit), arguments
        assert result.exit_code != 0 and SECRET not in result.output, result.output
        assert is_plain(result.output)
        (tmp_path / "m.csv").unlink()
        for file in filter(Path.is_file, tmp_path.rglob("*")):
            assert SECRET.encode() not in file.read_bytes(), file


def test_the_options_of_a_run_are_stored_without_credentials(tmp_path: Path) -> None:
    train = main.get_command(click.Context(main), "train")
    assert train is not None
    for url in URLS:
        with train.make_context("train", ["ddl", "--features", url, "--dataset", "xd"]) as ctx:
            write_run(ctx, tmp_path)
        text = (tmp_path / "run.yaml").read_text()
        assert SECRET not in text and "give that option again" in text
        assert read_run(tmp_path / "run.yaml")["features"].endswith(("/xd", "/x.mp4"))
