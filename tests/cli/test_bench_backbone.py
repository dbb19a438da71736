"""The bench of networks: forms of one network on one input, the plain form first."""

from __future__ import annotations

from vadprep.cli.bench.backbone import bench_backbone


def test_the_bench_compares_forms_of_one_network_on_one_input() -> None:
    plain, folded = bench_backbone("inception_i3d", "cpu", ["fp32"], threads=1, rounds=1)
    assert (plain.form, folded.form) == ("plain fp32", "folded fp32")
    assert (plain.speedup, plain.relative_error) == (1.0, 0.0)
    assert 0 < folded.relative_error < 1e-3 and folded.seconds > 0
