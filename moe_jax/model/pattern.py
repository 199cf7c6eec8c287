"""Turns the layer pattern of a config into runs of equal units, which are stacked and scanned."""

from dataclasses import dataclass

from moe_jax.config.model_schema import LayerKind, ModelConfig


@dataclass(frozen=True)
class LayerSpec:
    """What distinguishes one layer from another."""

    kind: LayerKind
    #: Sliding window of its attention in tokens (0 = full).
    window: int


@dataclass(frozen=True)
class LayerRun:
    """`unit` repeated `repeats` times; parameters of equal layers are stacked over repeats."""

    unit: tuple[LayerSpec, ...]
    repeats: int


def layer_sequence(model: ModelConfig) -> tuple[LayerSpec, ...]:
    """Return one spec per layer: both patterns repeat until the layers are filled."""
    kinds, windows = model.layers, model.attention.windows
    return tuple(
        LayerSpec(kinds[i % len(kinds)], windows[i % len(windows)]) for i in range(model.num_layers)
    )


def layer_runs(model: ModelConfig) -> tuple[LayerRun, ...]:
    """Cut the layers into a prefix of single layers and one repeated unit.

    Of all cuts, takes the one that compiles the fewest distinct layers (prefix + unit).

    Args:
        model: whose patterns of kinds and windows repeat until its layers are filled.
    """
    specs = layer_sequence(model)
    cuts = [(lead, _period(specs[lead:])) for lead in range(len(specs))]
    lead, period = min(cuts, key=lambda cut: (cut[0] + cut[1], cut[0]))
    prefix = tuple(LayerRun((spec,), 1) for spec in specs[:lead])
    return (*prefix, LayerRun(specs[lead : lead + period], (len(specs) - lead) // period))


def _period(specs: tuple[LayerSpec, ...]) -> int:
    """Return the length of the shortest unit that, repeated whole, gives `specs`."""
    fits = (
        n
        for n in range(1, len(specs) + 1)
        if len(specs) % n == 0 and specs == specs[:n] * (len(specs) // n)
    )
    return next(fits)


def moe_rows(model: ModelConfig) -> dict[tuple[int, int], list[int]]:
    """Return (stack, place in its unit) -> which MoE layers, counted over the model, are there.

    The order of the rows is that of the stacked parameters.

    Args:
        model: whose layers are cut by `layer_runs`.
    """
    rows: dict[tuple[int, int], list[int]] = {}
    count = 0
    for stack, run in enumerate(layer_runs(model)):
        for _ in range(run.repeats):
            for place, spec in enumerate(run.unit):
                if spec.kind == "moe":
                    rows.setdefault((stack, place), []).append(count)
                    count += 1
    return rows
