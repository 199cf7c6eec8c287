"""Settings that say something of each layer: which are sparse, which attend in a window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moe_jax.config.model_schema import LayerKind, ModelConfig
from moe_jax.errors import UserError
from moe_jax.interop.table.setting import Fields, Values
from moe_jax.model.pattern import layer_sequence

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class SparseStep:
    """Every `decoder_sparse_step`-th layer is sparse, but for `mlp_only_layers` (Qwen)."""

    keys: tuple[str, ...] = ("decoder_sparse_step", "mlp_only_layers")

    def read(self, fields: Fields) -> Values:
        step, dense = fields.whole("decoder_sparse_step"), fields["mlp_only_layers"]
        if dense is None:
            dense = []
        if not isinstance(dense, list) or not all(type(i) is int for i in dense):
            raise fields.refuse("mlp_only_layers", dense, "it must be a list of whole numbers")
        kinds = [
            "dense" if i in dense or (i + 1) % step else "moe"
            for i in range(fields["num_hidden_layers"])
        ]
        return {"layers": shortest_pattern(kinds)}

    def write(self, model: ModelConfig) -> Values:
        kinds = layer_kinds(model)
        for step in range(1, len(kinds) + 1):
            if all((kind == "moe") == (i % step == 0) for i, kind in enumerate(kinds, 1)):
                return {"decoder_sparse_step": step, "mlp_only_layers": []}
        dense = [i for i, kind in enumerate(kinds) if kind == "dense"]
        return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


@dataclass(frozen=True)
class FirstDense:
    """The first layers are dense, all others sparse (DeepSeek)."""

    keys: tuple[str, ...] = ("first_k_dense_replace", "moe_layer_freq")

    def read(self, fields: Fields) -> Values:
        if fields.get("moe_layer_freq", 1) != 1:
            raise fields.refuse(
                "moe_layer_freq", fields["moe_layer_freq"], "transformers ignores it, and knows 1"
            )
        layers = fields.whole("num_hidden_layers")
        first = fields.whole("first_k_dense_replace", least=0, most=layers)
        return {"layers": shortest_pattern(["dense"] * first + ["moe"] * (layers - first))}

    def write(self, model: ModelConfig) -> Values:
        kinds = layer_kinds(model)
        first = kinds.index("moe") if "moe" in kinds else len(kinds)
        if "dense" in kinds[first:]:
            raise UserError(
                f"model.layers = {list(model.layers)} has dense layers after the first sparse one"
            )
        return {"first_k_dense_replace": first}


@dataclass(frozen=True)
class OneWindow:
    """All layers have the same window, or none."""

    #: The field that switches it on, if there is one.
    switch: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        return ("sliding_window", self.switch) if self.switch else ("sliding_window",)

    def read(self, fields: Fields) -> Values:
        return {"attention.windows": (_window(fields, self.switch),)}

    def write(self, model: ModelConfig) -> Values:
        windows = {spec.window for spec in layer_sequence(model)}
        if len(windows) > 1:
            raise UserError(f"model.attention.windows = {list(model.attention.windows)} differ")
        window = windows.pop()
        values: Values = {"sliding_window": window or None}
        return values | ({self.switch: bool(window)} if self.switch else {})


@dataclass(frozen=True)
class WindowedLayers:
    """`layer_types` says which layers have the window; absent, a rule of the family does.

    Attributes:
        usual: whether layer i is windowed, given the fields, where there are no `layer_types`.
        further: fields that the rule reads.
        switch: the field that switches windows on, if there is one.
    """

    usual: Callable[[Fields, int], bool]
    further: tuple[str, ...] = ()
    switch: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        switch = (self.switch,) if self.switch else ()
        return ("sliding_window", "layer_types", *self.further, *switch)

    def read(self, fields: Fields) -> Values:
        layers = fields["num_hidden_layers"]
        window = _window(fields, self.switch)
        for name in self.further:
            fields.whole(name, least=0)
        types = fields.get("layer_types")
        if types is None:
            used = not self.switch or fields[self.switch]
            windowed = [used and self.usual(fields, i) for i in range(layers)]
        else:
            windowed = [kind == SLIDING for kind in self._checked(fields, types, layers)]
        if any(windowed) and not window:
            raise fields.refuse("layer_types", types, f"{SLIDING} needs a sliding_window above 0")
        return {"attention.windows": shortest_pattern([window if w else 0 for w in windowed])}

    def write(self, model: ModelConfig) -> Values:
        windows = [spec.window for spec in layer_sequence(model)]
        sizes = sorted(set(windows) - {0})
        if len(sizes) > 1:
            raise UserError(f"model.attention.windows has windows of several sizes: {sizes}")
        values: Values = {
            "sliding_window": sizes[0] if sizes else None,
            "layer_types": [SLIDING if window else FULL for window in windows],
        }
        return values | ({self.switch: bool(sizes)} if self.switch else {})

    def _checked(self, fields: Fields, types: Sequence[str], layers: int) -> Sequence[str]:
        known = isinstance(types, list) and all(kind in (SLIDING, FULL) for kind in types)
        if not known or len(types) != layers:
            raise fields.refuse(
                "layer_types", types, f"it must have {layers} entries of {SLIDING} or {FULL}"
            )
        return types


def _window(fields: Fields, switch: str) -> int:
    """Return the window in tokens; 0 if there is none, or it is switched off."""
    if switch and type(fields[switch]) is not bool:
        raise fields.refuse(switch, fields[switch], "it must be true or false")
    window = 0
    if fields["sliding_window"] is not None:
        window = fields.whole("sliding_window", least=0)
    return window if not switch or fields[switch] else 0


def layer_kinds(model: ModelConfig) -> list[LayerKind]:
    """Return what each layer is."""
    return [spec.kind for spec in layer_sequence(model)]


def shortest_pattern(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the shortest beginning that, repeated and cut off, gives all values."""
    return next(
        tuple(values[:n])
        for n in range(1, len(values) + 1)
        if all(value == values[i % n] for i, value in enumerate(values))
    )
