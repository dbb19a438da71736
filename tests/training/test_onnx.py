"""Heads as ONNX: parity in onnxruntime, provenance, the example, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.small_heads import SMALL, build, heads

import vadprep
from vadprep.core import onnx_files
from vadprep.core.errors import ExportError, SettingError, WeightsError
from vadprep.core.onnx_files import Case, difference, session_of, write_onnx
from vadprep.core.presets import resolve
from vadprep.heads import HEADS
from vadprep.training import Checkpoint
from vadprep.training.onnx_export import Mean, _cases, export_head

onnx = pytest.importorskip("onnx")
SPEC = resolve("i3d", "cpu", ("random:0", "0" * 64), {}, "rgb")


def checkpoint(name, seed=0, classes=(), **changes):
    config = type(SMALL[name])(**{**vars(SMALL[name]), **changes})
    torch.manual_seed(seed)
    head = HEADS[name].network(16, config, classes).eval()
    return Checkpoint(name, head, "rgb", {"rgb": SPEC}, seed=seed)


def scores_of(path, snippets):
    session = session_of(path.read_bytes())
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, {"snippets": snippets.numpy()}), strict=True))


@pytest.mark.slow
@heads
@pytest.mark.parametrize("length", [1, 17, 200])
def test_scores_in_onnxruntime_are_those_of_the_head(exported, name, length):
    run, path = exported(name)
    for crops in (1, 3, 10):
        snippets = torch.randn(crops, length, 16)
        with torch.inference_mode():
            expected = run.head.of_video(snippets)
        found = scores_of(path, snippets)
        assert found["scores"].shape == (length,) and found["scores"].dtype == np.float32
        np.testing.assert_allclose(found["scores"], expected.scores[0], rtol=0, atol=1e-5)
        assert ("video" in found) == (expected.video is not None)
        if expected.video is not None:
            assert abs(found["video"] - float(expected.video)) < 1e-5


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The file of a head, made once."""
    made = {}

    def of(name):
        if name not in made:
            run, path = checkpoint(name, standardize=True), tmp_path_factory.mktemp(name) / "h.onnx"
            run.head.fit_standardization(torch.full((16,), 0.3), torch.full((16,), 0.5))
            assert export_head([run], path) < 1e-5
            made[name] = run, path
        return made[name]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sultani", {"sampling": "segments-32"}),
        ("sultani", {"sampling": "segments-50"}),
        ("sultani", {"scoring": "snippets", "normalize": False}),
        ("rtfm", {"affinity": "softmax"}),
        ("csltal", {"attention": "two"}),
        ("ddl", {"prior": "pre"}),
        ("ddl", {"prior": "none"}),
        ("ddl", {"attention": False}),
        ("urdmu", {"local_norm": "rows"}),
        ("pel4vad", {"norm": "none"}),
        ("pel4vad", {"attention": False}),
        ("vadclip", {"branch": "alignment"}),
        ("vadclip", {"graphs": False}),
    ],
)
def test_other_settings_have_a_form_too(tmp_path, name, changes):
    run = checkpoint(name, **changes)
    export_head([run], tmp_path / "h.onnx")
    for length in (1, 58, 200):  # edge 25 of segments-50 of 58 is rounded down
        snippets = torch.randn(2, length, 16)
        with torch.inference_mode():
            expected, _ = run.head.score(snippets)
        found = scores_of(tmp_path / "h.onnx", snippets)["scores"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_classes_are_an_output(tmp_path):
    run = checkpoint("vadclip", classes=("fight", "fire"))
    export_head([run], tmp_path / "h.onnx")
    snippets = torch.randn(2, 40, 16)
    with torch.inference_mode():
        expected = run.head.of_video(snippets)
    found = scores_of(tmp_path / "h.onnx", snippets)
    np.testing.assert_allclose(found["classes"], expected.classes[0], rtol=0, atol=1e-5)
    metadata = session_of((tmp_path / "h.onnx").read_bytes()).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["fight", "fire"]


@pytest.mark.parametrize("length", [1, 17, 200])
@heads
def test_the_traced_form_is_the_head(name, length):
    """What becomes ONNX, in torch: the export itself takes seconds a head, see the slow tests."""
    head, snippets = build(name, dim=16).eval(), torch.randn(3, length, 16)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        expected = head.of_video(snippets)
        for room in ("layers", "rtfm", "vadclip"):
            patch.setattr(f"vadprep.heads.{room}.is_exporting", lambda: True)
        traced = head.traced(snippets)
    torch.testing.assert_close(traced.scores.double(), expected.scores, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_run_of_seeds_with_its_example_and_provenance(tmp_path):
    """The mean over the seeds; the example runs without torch and without vadprep."""
    run = [checkpoint("arnet", seed) for seed in (3, 5)]
    found = vadprep.export_onnx(run, tmp_path / "out")
    assert list(found) == ["head.onnx"] and 0 <= found["head.onnx"] < 1e-5
    snippets = torch.randn(2, 23, 16)
    with torch.inference_mode():
        each = [one.head.score(snippets)[0].numpy() for one in run]
    scores = scores_of(tmp_path / "out" / "head.onnx", snippets)["scores"]
    np.testing.assert_allclose(scores, np.mean(each, axis=0), rtol=0, atol=1e-5)

    model = onnx.load(tmp_path / "out" / "head.onnx")
    metadata = {each.key: each.value for each in model.metadata_props}
    assert (metadata["head"], metadata["online_window"]) == ("arnet", "1")
    assert json.loads(metadata["seeds"]) == [3, 5]
    assert json.loads(metadata["spec_hash"]) == {"rgb": SPEC.hash}
    assert json.loads(metadata["config"])["alpha"] == run[0].config.alpha
    assert "random:0, NEVER TRAINED" in metadata["caution"] == model.doc_string
    shape = [
        each.dim_param or each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert shape == ["crops", "length", 16]
    assert {each.version for each in model.opset_import if not each.domain} == {onnx_files.OPSET}

    example = tmp_path / "out" / "example.py"
    assert len([line for line in example.read_text().splitlines() if line]) <= 10
    np.save(tmp_path / "features.npy", snippets.numpy().astype(np.float16))
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['vadprep'] = None;"
        f"sys.argv = ['example.py', {str(tmp_path / 'features.npy')!r}];"
        f"runpy.run_path({str(example)!r})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("scores (23,) [") and "NEVER TRAINED" in result.stdout


def test_a_head_is_checked_near_the_features_that_it_was_trained_on():
    """Deviations of 1e-3: normal features of deviation 1 all score 0 or 1."""
    run = checkpoint("arnet", standardize=True)
    mean, std = torch.full((16,), 5.0), torch.full((16,), 1e-3)
    std[3] = 0.0
    run.head.fit_standardization(mean, std)
    network = Mean([run])
    for case in _cases(network, 16, ["scores"]):
        snippets, scores = case.inputs["snippets"], case.outputs["scores"]
        assert abs(snippets - 5).max() < 1e-2 and (snippets[..., 3] == 5).all()
        assert 0.01 < scores.min() and scores.max() < 0.99


def identity(factor=1.0):
    """A model that multiplies x by ``factor``."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, ["n"]) for name in ("x", "y")]
    constant = helper.make_tensor("factor", kind, [], [factor])
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [constant])
    opset = [helper.make_opsetid("", onnx_files.OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def test_a_file_that_differs_is_refused_and_an_earlier_one_removed(tmp_path):
    x = np.array([1.0, -0.5], dtype=np.float32)
    path, cases = tmp_path / "h.onnx", [Case({"x": x}, {"y": x})]
    assert write_onnx(path, identity(1 + 9e-5), {"caution": "none"}, cases) == pytest.approx(
        9e-5, rel=0.01
    )
    assert onnx.load(path).doc_string == "none"
    with pytest.raises(ExportError, match=r"y of x \[2\] differs by 0.00011 from that of torch"):
        write_onnx(path, identity(1 + 1.1e-4), {}, cases)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("got", "expected", "apart"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.2),
        ([0.1, 0.2], [0.1, 0.3], 0.1),
        ([1.0], [1.0, 1.0], float("inf")),
        ([float("nan")], [1.0], float("inf")),
        ([], [], 0.0),
    ],
)
def test_the_difference_is_a_share_of_the_largest_value_or_of_1(got, expected, apart):
    assert difference(np.array(got), np.array(expected)) == pytest.approx(apart)


def test_what_has_no_form_is_refused(tmp_path):
    run = checkpoint("sultani", sampling="means-64")
    with pytest.raises(SettingError, match="'means-64': its number of parts depends"):
        run.head.traced(torch.randn(1, 3, 16))
    for options, error, message in (
        ({"weights": "random:0"}, SettingError, "ask for it by backbone"),
        ({"backbone": True, "weights": "random:1"}, WeightsError, "not the weights behind"),
    ):
        with pytest.raises(error, match=message):
            vadprep.export_onnx([checkpoint("arnet")], tmp_path / "o", **options)
    flow = replace(checkpoint("arnet"), streams="flow", specs={"flow": SPEC})
    with pytest.raises(SettingError, match="no stream rgb"):
        vadprep.export_onnx([flow], tmp_path / "o", backbone=True)
    other = replace(checkpoint("arnet"), specs={"rgb": replace(SPEC, graph="r3d_18")})
    with pytest.raises(SettingError, match="features are of r3d_18: only inception_i3d"):
        vadprep.export_onnx([other], tmp_path / "o", backbone=True)
