"""The scaling curve's file: written in the asked format, with every curve and point in it."""

import builtins

import pytest

from moe_jax.planner.pictures.plot import PlotExtraMissing, plot_scaling
from moe_jax.planner.search.scaling import ScalingCurve, ScalingPoint

CURVES = (
    ScalingCurve(
        "experts grow",
        "compiled",
        "modelled",
        tuple(ScalingPoint(16 * n, 0.1 + 0.01 * n, 5.0, 1e5 * n**0.9) for n in (1, 2, 4, 8)),
    ),
    ScalingCurve(
        "16 experts x replicas", "compiled", "modelled", (ScalingPoint(16, 0.1, 5.0, 1e5),)
    ),
)


def test_png(tmp_path):
    plot_scaling(CURVES, tmp_path / "a.png", title="paper")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_svg_names_its_curves_and_says_they_are_modelled(tmp_path):
    # Text as text, so that it can be looked for.
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "x"}):
        plot_scaling(CURVES, tmp_path / "a.svg", title="paper")
        plot_scaling(CURVES, tmp_path / "b.svg", title="paper")
    svg = (tmp_path / "a.svg").read_text()
    for text in (
        "paper (dashed: ideal)",
        "experts grow (compiled)",
        "experts grow (modelled): 81% of linear at 128",  # 8 ** -0.1
        "16 experts x replicas (modelled): 100% of linear at 16",
    ):
        assert text in svg
    assert svg == (tmp_path / "b.svg").read_text()


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xyz must end in a format such as \.png or \.svg"):
        plot_scaling(CURVES, tmp_path / "a.xyz", title="")
    assert not list(tmp_path.iterdir())


def test_nothing_to_plot_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no scaling curve"):
        plot_scaling([], tmp_path / "a.png", title="")


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlotExtraMissing, match=r"pip install 'moe-jax\[plot\]'"):
        plot_scaling(CURVES, tmp_path / "a.png", title="")
