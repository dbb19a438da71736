"""Command weights: list, get, convert, check, top5, prompts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vadprep.backbones.weights import catalog
from vadprep.backbones.weights.catalog import CATALOG, SAMPLES
from vadprep.cli.help import group
from vadprep.cli.options import FILE, PATH
from vadprep.cli.text import Cells, show, shown_bar
from vadprep.core.errors import counted

if TYPE_CHECKING:
    from vadprep.backbones import Weights

NAMES = click.Choice([*CATALOG, *SAMPLES])
AS_HELP = "Which file it is: a name in vadprep weights list. Default: found from its tensors."


@group("weights", example="vadprep weights get i3d-rgb")
def weights() -> None:
    """List, download, convert and check weights of networks."""


@weights.command("list", example="vadprep weights list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with URLs and hashes.")
def weights_list(as_json: bool) -> None:
    """Files that can be downloaded, and those on this machine."""
    rows: list[Cells] = [("name", "graph", "file", "licence", "identified by", "here")]
    records = []
    for name, each in {**CATALOG, **SAMPLES}.items():
        here = "downloaded" if catalog.download_path(name).is_file() else "-"
        if name in CATALOG and catalog.converted_path(name).is_file():
            here = "ready"
        kind = (
            "git blob id"
            if each.blob
            else "SHA-256" + ", part" * (len(each.sha256) < 64)
            if each.sha256
            else "nothing"
        )
        rows.append((name, each.graph, each.file_name, each.licence, kind, here))
        record = {"name": name, **asdict(each), "here": here}
        record["git_blob"] = record.pop("blob")
        records.append(record)
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    show(rows)
    folder = catalog.weights_folder()
    click.echo(f"folder: {folder} (set by VADPREP_CACHE); vadprep weights get NAME")


@weights.command("get", example="vadprep weights get i3d-rgb")
@click.argument("name", type=NAMES, metavar="NAME")
def weights_get(name: str) -> None:
    """Download a file, check it and convert it.

    vadprep weights list shows the names. Files go to $VADPREP_CACHE, by default ~/.cache/vadprep.
    """
    from vadprep.backbones.weights.download import fetch

    published = CATALOG.get(name) or SAMPLES[name]
    target = catalog.download_path(name)
    with shown_bar(name) as progress:
        sha256 = fetch(published, target, progress)
    click.echo(f"{target}")
    origin = "identified by its hash" if published.is_pinned else "nobody has published its hash"
    click.echo(f"SHA-256 {sha256} ({origin}), licence {published.licence}")
    if name in CATALOG:
        from vadprep.backbones.weights.load import convert

        _show(convert(target, catalog.converted_path(name), name), catalog.converted_path(name))


def _show(made: Weights, path: Path) -> None:
    click.echo(f"{path}")
    click.echo(f"graph {made.graph}, {len(made.state)} tensors, SHA-256 of them {made.sha256}")


@weights.command("convert", example="vadprep weights convert rgb_imagenet.pt")
@click.argument("file", type=FILE)
@click.option("--as", "declared", type=click.Choice(list(CATALOG)), metavar="NAME", help=AS_HELP)
@click.option("--out", type=FILE, help="New file. Default: FILE with .safetensors.")
def weights_convert(file: Path, declared: str | None, out: Path | None) -> None:
    """Convert weights of another project to .safetensors.

    No code of the project is run. Reads DeepMind's TensorFlow checkpoints, and the files of
    pytorch-i3d, kinetics_i3d_pytorch, video-nonlocal-net (.pkl), pytorch-resnet3d, pytorchvideo,
    torchvision, kylemin/S3D, VideoMAE (its own, and transformers') and CLIP (OpenAI's and
    open_clip's).
    """
    from vadprep.backbones.weights.load import convert

    out = out or file.with_suffix(".safetensors")
    if out == file:
        raise click.UsageError(f"{file} would be overwritten; name the new file with --out")
    _show(convert(file, out, declared or ""), out)


@weights.command("check", example="vadprep weights check i3d-rgb")
@click.argument("weights_spec", metavar="FILE|NAME")
@click.option("--sample", type=FILE, help="DeepMind's sample clip. Default: the downloaded one.")
def weights_check(weights_spec: str, sample: Path | None) -> None:
    """Check that weights are complete and original."""
    from vadprep.backbones import load_weights
    from vadprep.backbones.weights.check import SAMPLE_OF, check_sample, is_as_published
    from vadprep.backbones.weights.deepmind import RELEASES, compare_with_release

    found = load_weights(weights_spec)
    click.echo(f"graph {found.graph}, {len(found.state)} tensors, {found.provenance}")
    click.echo(f"SHA-256 of the tensors {found.sha256}")
    if found.graph not in RELEASES.values():
        click.echo("original or not: unknown, nobody has published checksums of these tensors")
        return
    differing, line = compare_with_release(found.state, found.graph)
    click.echo(line)
    sample = sample or catalog.download_path(SAMPLE_OF[found.graph])
    if not sample.is_file():
        click.echo(f"sample clip: not here; vadprep weights get {SAMPLE_OF[found.graph]}")
        sys.exit(1 if differing else 0)
    pairs = check_sample(found, sample)
    rows = [(name, *values) for name, values in pairs.items()]
    show([("sample clip, logits", "here", "published"), *rows])
    is_equal = is_as_published(pairs)
    click.echo("sample clip: " + ("as published" if is_equal else "NOT as published"))
    sys.exit(0 if is_equal and not differing else 1)


@weights.command("prompts", example="vadprep weights prompts clip-vit-b16 fight B6='car accident'")
@click.argument("weights_spec", metavar="FILE|NAME")
@click.argument("classes", nargs=-1, required=True, metavar="CLASS[=TEXT]...")
@click.option("--out", type=FILE, default="prompts.npz", show_default=True, help="New file.")
def weights_prompts(weights_spec: str, classes: tuple[str, ...], out: Path) -> None:
    """Embed class names with the text encoder of CLIP.

    Writes the file that --prompts of vadprep train takes. Classes are the categories of your
    manifest; TEXT is what CLIP reads for one, by default its name. Class normal is always written.
    """
    from vadprep.backbones import load_weights, write_prompts

    texts = {"normal": "normal"}
    for each in classes:
        name, sign, text = each.partition("=")
        texts[name] = text if sign else name
    found = load_weights(weights_spec, "clip_vit_b16")
    write_prompts(out, found, texts)
    click.echo(f"{out}")
    click.echo(
        f"{counted(len(texts), 'embedding')} of 512 numbers by {found.name}: {', '.join(texts)}"
    )


@weights.command("top5", example="vadprep weights top5 i3d-rgb clip.mp4")
@click.argument("weights_spec", metavar="FILE|NAME")
@click.argument("video", type=PATH)
def weights_top5(weights_spec: str, video: Path) -> None:
    """The five most likely Kinetics-400 classes of a video."""
    from vadprep.backbones import load_weights
    from vadprep.backbones.weights.check import preset_of, top5
    from vadprep.video import first_clips

    found = load_weights(weights_spec)
    preset = preset_of(found)
    show([("class", "probability", "logit"), *top5(found, first_clips(video, preset))])
    click.echo(f"{found.graph}, weights {found.name}, views of preset {preset}, centre crop")
