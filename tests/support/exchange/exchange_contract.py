"""The contract that every transport inherits: values, gradients and counts against a naive loop.

A transport's test file subclasses `ExchangeContract`, names the transport and walks its queues by
hand. One compiled function serves all routings of a case, since routing is data.
"""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from support.exchange.exchange_reference import ROUTINGS, Problem, make_problem, solve
from support.exchange.exchange_walk import Choice, Sizes
from support.exchange.jaxprs import equations_of, inside_shard_map

from moe_jax.axes import AXES, BATCH_AXES, EXPERT
from moe_jax.moe.exchange import TRANSPORTS, Exchange, ExchangeSpec, ExchangeStats, Routing
from moe_jax.moe.exchange.contract import whole_rows
from moe_jax.sharding.spmd import on_device_shards

TOKENS = 24  # per device
SIZE = 8
BATCH = PartitionSpec(BATCH_AXES)


@dataclass(frozen=True)
class Case:
    """One compiled function."""

    data: int
    expert: int
    per_device: int
    top_k: int
    overflow: Literal["rounds", "drop"]
    #: Small, so that rows overflow.
    factor: float = 0.5

    @property
    def devices(self) -> int:
        return self.data * self.expert

    @property
    def experts(self) -> int:
        return self.expert * self.per_device

    @property
    def hosts(self) -> tuple[int, ...]:
        """Two hosts; with 8 devices they split the expert groups unevenly."""
        return tuple(int(p >= 0.6 * self.devices) for p in range(self.devices))

    def __str__(self) -> str:
        return (
            f"data{self.data}-expert{self.expert}x{self.per_device}-top{self.top_k}-{self.overflow}"
            f"-{self.factor:g}"
        )


def all_cases() -> list[Case]:
    meshes = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 4)]
    product = itertools.product(meshes, (1, 2), (1, 2, 8), ("rounds", "drop"))
    cases = [Case(*mesh, per, k, overflow) for mesh, per, k, overflow in product]
    # Groups side by side add nothing that depends on top_k.
    return [ROOMY, *(c for c in cases if c.top_k <= c.experts and (c.data == 1 or c.top_k == 2))]


#: Room for everybody: each device's only expert takes rows as they come.
ROOMY = Case(1, 4, 1, 1, "rounds", factor=4.0)
#: Enough to notice most mistakes; the others are the slow part.
FAST = (
    *(Case(1, 8, 1, 2, "rounds"), Case(2, 4, 2, 2, "rounds"), Case(1, 4, 2, 2, "drop")),
    ROOMY,
)
CASES = [
    pytest.param(c, marks=[] if c in FAST else pytest.mark.slow, id=str(c)) for c in all_cases()
]


@dataclass(frozen=True)
class Result:
    """What a transport returned: y, the gradients as `solve` names them, counts per device."""

    y_td: np.ndarray
    grads: dict[str, np.ndarray]
    stats: ExchangeStats


def make_mesh(data: int, expert: int) -> Mesh:
    sizes = {"data": data, "expert": expert}
    shape = [sizes.get(axis, 1) for axis in AXES]
    grid = np.array(jax.devices()[: data * expert]).reshape(shape)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def make_spec(transport: str, case: Case) -> ExchangeSpec:
    return ExchangeSpec(
        TRANSPORTS[transport],
        case.experts,
        case.expert,
        case.factor,
        case.overflow,
        round_fraction=0.25,
        hosts=case.hosts,
    )


class TanhExperts:
    """`contract.ExpertsFn`: every row by its expert's two matrices, through JAX's own product."""

    def up(self, params, rows_rd, sizes_l):
        return self._product(rows_rd, params[0], sizes_l)

    def down(self, params, hidden_rf, sizes_l, weights_r):
        out_rd = self._product(jnp.tanh(hidden_rf), params[1], sizes_l)
        return (out_rd * weights_r[:, None]).astype(hidden_rf.dtype)

    def _product(self, rows_ri, w_lio, sizes_l):
        if sizes_l is None:
            return rows_ri @ w_lio[0]
        return jax.lax.ragged_dot(rows_ri, w_lio, sizes_l)


@functools.cache
def compiled(transport: str, case: Case):
    """Returns (inputs of all devices) -> ((loss, (y, stats)), gradients), jitted on the mesh."""
    exchange = Exchange(make_spec(transport, case))
    gathers = TRANSPORTS[transport].gathers_experts
    weights = PartitionSpec() if gathers else PartitionSpec(EXPERT)

    def local(x_td, experts_tk, weights_tk, w_in, w_out):
        routing = Routing(experts_tk, weights_tk)
        y_td, stats = exchange((w_in, w_out), x_td, routing, TanhExperts())
        return y_td, jax.tree.map(lambda leaf: leaf[None], stats)

    mapped = on_device_shards(
        local,
        make_mesh(case.data, case.expert),
        in_specs=(BATCH, BATCH, BATCH, weights, weights),
        out_specs=(BATCH, BATCH),
    )

    def loss(moved, experts_tk, grad_td):
        x_td, weights_tk, w_in, w_out = moved
        y_td, stats = mapped(x_td, experts_tk, weights_tk, w_in, w_out)
        return (y_td.astype(jnp.float32) * grad_td).sum(), (y_td, stats)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def run(transport: str, case: Case, problem: Problem) -> Result:
    names = ("x_td", "weights_tk", "w_in_edf", "w_out_efd")
    moved = tuple(getattr(problem, name) for name in names)
    function = compiled(transport, case)
    (_, (y_td, stats)), grads = function(moved, problem.experts_tk, problem.grad_td)
    named = {name: np.asarray(grad) for name, grad in zip(names, grads, strict=True)}
    return Result(np.asarray(y_td), named, jax.tree.map(np.asarray, stats))


def assert_close(actual: np.ndarray, wanted: np.ndarray, tolerance: float, what: str) -> None:
    error = np.linalg.norm(actual - wanted)
    scale = np.linalg.norm(wanted)
    assert error <= tolerance * max(scale, 1e-6), f"{what}: relative error {error / scale:.2e}"


@dataclass
class Counts:
    """What `ExchangeStats` must hold, per device [p], and who was served."""

    served: set[Choice]
    dropped: np.ndarray
    rounds: np.ndarray
    padded: np.ndarray
    off_device: np.ndarray
    off_host: np.ndarray

    @classmethod
    def none(cls, devices: int) -> "Counts":
        return cls(set(), *(np.zeros(devices) for _ in range(5)))


class ExchangeContract:
    """Subclasses are collected; they say what is particular about a transport."""

    transport: str
    #: On how many devices a token may be in a row, at most all of its group.
    seen_by: Literal["one device", "the group"]

    def walk(self, case: Case, experts_tk: np.ndarray) -> Counts:
        """Returns who is served and what that costs, by walking the queues one by one."""
        raise NotImplementedError

    def sizes_at_experts(self, case: Case, arrived: int, top_k: int) -> Sizes:
        """Returns the sizes of the rounds at the experts, of so many places for tokens."""
        spec = make_spec(self.transport, case)
        rows = spec.transport.expert_rows(spec, arrived, top_k)
        most = arrived * min(top_k, spec.experts_here)
        return Sizes(rows, whole_rows(spec.round_fraction * rows), most)

    @pytest.mark.parametrize("case", CASES)
    def test_value_gradients_and_counts_equal_the_naive_loop(self, case: Case):
        for routing in ROUTINGS:
            problem = make_problem(routing, case.devices * TOKENS, case.experts, case.top_k, SIZE)
            result = run(self.transport, case, problem)
            counts = self.walk(case, problem.experts_tk)
            served_tk = np.zeros(problem.experts_tk.shape, bool)
            for device, token, k in counts.served:
                served_tk[device * TOKENS + token, k] = True
            if case.overflow == "rounds":
                assert served_tk.all()
            answer = solve(problem, served_tk)
            assert_close(result.y_td, answer.y_td, 1e-5, f"{routing}: y")
            for name, grad in result.grads.items():
                assert_close(grad, getattr(answer, name), 1e-5, f"{routing}: gradient of {name}")
            self.check_counts(case, problem.experts_tk, result.stats, counts)

    def test_bfloat16_rows_stay_within_two_percent(self):
        case = FAST[0]
        problem = make_problem("skewed", case.devices * TOKENS, case.experts, case.top_k, SIZE)
        rounded = {
            name: jnp.asarray(getattr(problem, name), jnp.bfloat16)
            for name in ("x_td", "w_in_edf", "w_out_efd")
        }
        # Routing weights and the loss are float32: that mixes dtypes on purpose.
        with jax.numpy_dtype_promotion("standard"):
            result = run(self.transport, case, dataclasses.replace(problem, **rounded))
        exact = {name: np.asarray(array, np.float32) for name, array in rounded.items()}
        everyone = np.ones_like(problem.experts_tk, bool)
        answer = solve(dataclasses.replace(problem, **exact), everyone)
        assert result.y_td.dtype == jnp.bfloat16
        assert_close(result.y_td.astype(np.float32), answer.y_td, 2e-2, "y")
        for name, grad in result.grads.items():
            assert_close(
                grad.astype(np.float32), getattr(answer, name), 2e-2, f"gradient of {name}"
            )

    def test_no_wide_scatter_and_no_array_of_tokens_x_experts_x_width(self):
        """In value and gradients: no scatter of [d_model] vectors, no dispatch one-hots."""
        case, tokens, d = Case(1, 8, 1, 2, "rounds", factor=1.25), 500, 31
        problem = make_problem("random", case.devices * tokens, case.experts, case.top_k, d)
        moved = (problem.x_td, problem.weights_tk, problem.w_in_edf, problem.w_out_efd)
        trace = compiled(self.transport, case).trace(moved, problem.experts_tk, problem.grad_td)
        equations = list(equations_of(inside_shard_map(trace.jaxpr)))
        scattered = [
            (str(eqn.primitive), [v.aval.shape for v in eqn.invars])
            for eqn in equations
            if "scatter" in str(eqn.primitive) and "reduce_scatter" not in str(eqn.primitive)
        ]
        assert scattered, "counting the load is a scatter: this test no longer sees any"
        assert not [entry for entry in scattered if any(d in shape for shape in entry[1])]
        seen = tokens * (case.devices if self.seen_by == "the group" else 1)
        limit = seen * case.experts * d
        largest = max((v.aval for eqn in equations for v in eqn.outvars), key=lambda a: a.size)
        assert largest.size < limit, f"{largest} holds {largest.size} elements, limit {limit}"

    def check_counts(
        self, case: Case, experts_tk: np.ndarray, stats: ExchangeStats, counts: Counts
    ) -> None:
        by_device = experts_tk.reshape(case.devices, -1)
        load = np.stack([np.bincount(row, minlength=case.experts) for row in by_device])
        np.testing.assert_array_equal(stats.load_e, load)
        np.testing.assert_array_equal(stats.rows_dropped, counts.dropped)
        np.testing.assert_array_equal(stats.rows_sent, load.sum(axis=1) - counts.dropped)
        np.testing.assert_array_equal(stats.overflow_rounds, counts.rounds)
        np.testing.assert_array_equal(stats.rows_padded, counts.padded)
        np.testing.assert_array_equal(stats.rows_off_device, counts.off_device)
        np.testing.assert_array_equal(stats.rows_off_host, counts.off_host)
