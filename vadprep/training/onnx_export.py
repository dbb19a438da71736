"""A trained head as an ONNX file, for programs without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vadprep import __version__
from vadprep.core.onnx_files import OPSET, Case, write_onnx
from vadprep.heads import Head
from vadprep.training.checkpoint import Checkpoint, spec_records
from vadprep.training.scoring import exact_arithmetic

LENGTHS = (1, 17, 200)
"""Snippets of the videos by which the file is checked."""
CROPS = (1, 5)
"""Their crops."""


EXAMPLE = '''\
"""Scores of snippets by head.onnx: python example.py [FEATURES.npy]"""
import sys, pathlib, numpy, onnxruntime

session = onnxruntime.InferenceSession(pathlib.Path(__file__).with_name("head.onnx"))
shape = (1, 17, session.get_inputs()[0].shape[2])  # crops, length, dim: any crops and length
snippets = numpy.load(sys.argv[1]) if sys.argv[1:] else numpy.random.normal(size=shape)
outputs = session.run(None, {"snippets": snippets.astype("float32")})
for output, found in zip(session.get_outputs(), outputs):
    print(output.name, found.shape, found)
print(session.get_modelmeta().custom_metadata_map["caution"])
'''
"""A program without torch and without vadprep."""


class Mean(nn.Module):
    """The mean over the heads of a run, one for each seed."""

    def __init__(self, run: Sequence[Checkpoint]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(checkpoint.head for checkpoint in run)

    def forward(self, snippets: Tensor) -> tuple[Tensor, ...]:
        """Outputs as ``output_names``, of float32 [crops, length, dim]."""
        return self._mean([head.traced(snippets) for head in self.own()])

    def of_video(self, snippets: Tensor) -> tuple[Tensor, ...]:
        """The same as vadprep scores a video, in float64."""
        return self._mean([head.of_video(snippets) for head in self.own()])

    def own(self) -> Iterator[Head]:
        """The heads, one for each seed."""
        return (head for head in self.heads if isinstance(head, Head))

    def _mean(self, outputs: Sequence[Any]) -> tuple[Tensor, ...]:
        found = []
        for name in ("scores", "video", "classes"):
            if getattr(outputs[0], name) is not None:
                found.append(torch.cat([getattr(each, name) for each in outputs]).mean(dim=0))
        return tuple(found)


def export_head(run: Sequence[Checkpoint], path: Path) -> float:
    """Write the head of a run as ONNX; returns the largest difference from torch.

    Input ``snippets`` float32 [crops, length, dim], any number of both. Outputs are ``scores``
    float32 [length], from heads that have them ``video`` [] and ``classes`` [length, num_classes]:
    the mean over crops and over the seeds of the run, as ``vadprep score`` gives them. Raises
    SettingError for settings without such a form, ExportError and OutputError as ``write_onnx``.
    """
    network, dim = Mean(run).eval().cpu(), run[0].head.dim
    names = output_names(network, dim)
    with torch.inference_mode(mode=False), exact_arithmetic():
        program = torch.onnx.export(
            network,
            (torch.randn(3, LENGTHS[1], dim),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["snippets"],
            output_names=names,
            dynamic_shapes=({0: "crops", 1: "length"},),
            verbose=False,
        )
    assert program is not None
    return write_onnx(path, program.model_proto, provenance(run), _cases(network, dim, names))


def output_names(network: Mean, dim: int) -> list[str]:
    """Names of what the network gives."""
    with torch.no_grad():
        shapes = [each.dim() for each in network.of_video(torch.zeros(1, 1, dim))]
    return [("video", "scores", "classes")[each] for each in shapes]


def _cases(network: Mean, dim: int, names: Sequence[str]) -> Iterator[Case]:
    """Random snippets of each length and number of crops, and what vadprep scores them.

    They are normal, with the mean and deviation of the training where the head standardizes: far
    from these, all scores are 0 or 1, and equal whatever the file computes.
    """
    generator, head = torch.Generator().manual_seed(0), next(network.own())
    spread = torch.where(head.gain > 0, 1 / head.gain, torch.zeros_like(head.gain))
    for length in LENGTHS:
        for crops in CROPS:
            normal = torch.randn(crops, length, dim, generator=generator)
            snippets = head.shift + normal * spread
            with torch.inference_mode(), exact_arithmetic():
                outputs = [each.float().numpy() for each in network.of_video(snippets)]
            yield Case({"snippets": snippets.numpy()}, dict(zip(names, outputs, strict=True)))


def provenance(run: Sequence[Checkpoint]) -> dict[str, str]:
    """What the file says of itself: head, settings, features, seeds, classes, cautions."""
    first = run[0]
    return {
        "vadprep": __version__,
        "head": first.head_name,
        "config": json.dumps(asdict(first.config)),
        "streams": first.streams,
        "spec_hash": json.dumps({stream: spec.hash for stream, spec in first.specs.items()}),
        "specs": json.dumps(spec_records(first.specs)),
        "weights": json.dumps(dict(first.origin.weights)),
        "seeds": json.dumps([checkpoint.seed for checkpoint in run]),
        "classes": json.dumps(first.head.classes),
        "online_window": str(first.head.online_window),
        "causal_context": json.dumps(first.head.causal_context),
        "caution": first.origin.caution(),
    }
