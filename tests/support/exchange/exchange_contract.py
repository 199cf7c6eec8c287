"""The contract that every transport inherits: values, gradients and counts against a naive loop.

A transport's test file subclasses `ExchangeContract`, names the transport and says how its queues
are formed. One compiled function serves all routings of a case, since routing is data.
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
from support.exchange.exchange_reference import (
    ROUTINGS,
    Problem,
    make_problem,
    served_in_order,
    solve,
)
from support.exchange.jaxprs import equations_of, inside_shard_map

from moe_jax.axes import AXES, BATCH_AXES, EXPERT
from moe_jax.moe.exchange import TRANSPORTS, Exchange, ExchangeSpec, ExchangeStats, Routing
from moe_jax.moe.exchange.contract import capacity
from moe_jax.sharding.spmd import on_device_shards
from moe_jax.sharding.tensor import ONE

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
        )


def all_cases() -> list[Case]:
    meshes = [(1, 1), (1, 2), (1, 4), (1, 8), (2, 4)]
    product = itertools.product(meshes, (1, 2), (1, 2, 8), ("rounds", "drop"))
    cases = [Case(*mesh, per, k, overflow) for mesh, per, k, overflow in product]
    # Groups side by side add nothing that depends on top_k.
    return [c for c in cases if c.top_k <= c.experts and (c.data == 1 or c.top_k == 2)]


#: Enough to notice most mistakes; the others are the slow part.
FAST = (Case(1, 8, 1, 2, "rounds"), Case(2, 4, 2, 2, "rounds"), Case(1, 4, 2, 2, "drop"))
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
        TRANSPORTS[transport], case.experts, case.expert, case.factor, case.overflow, case.hosts
    )


@functools.cache
def compiled(transport: str, case: Case):
    """Returns (inputs of all devices) -> ((loss, (y, stats)), gradients), jitted on the mesh."""
    exchange = Exchange(make_spec(transport, case))
    gathers = TRANSPORTS[transport].gathers_experts
    weights = PartitionSpec() if gathers else PartitionSpec(EXPERT)

    def local(x_td, experts_tk, weights_tk, w_in, w_out):
        def experts(rows_lrd, tensor=ONE, *, partial=False):
            hidden = jnp.tanh(jnp.einsum("lrd,ldf->lrf", rows_lrd, w_in))
            return jnp.einsum("lrf,lfd->lrd", hidden, w_out)

        y_bsd, stats = exchange(x_td[None], Routing(experts_tk, weights_tk), experts)
        return y_bsd[0], jax.tree.map(lambda leaf: leaf[None], stats)

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


@dataclass(frozen=True)
class Counts:
    """What `ExchangeStats` must hold, per device [p]."""

    served_tk: np.ndarray
    dropped: np.ndarray
    rounds: np.ndarray
    padded: np.ndarray


class ExchangeContract:
    """Subclasses are collected; they say what is particular about a transport."""

    transport: str
    #: Devices of one expert group queue their tokens together, or each its own.
    queues_are: Literal["per device", "per group"]
    #: Devices of one group run the same number of rounds.
    rounds_agree: bool

    @pytest.mark.parametrize("case", CASES)
    def test_value_gradients_and_counts_equal_the_naive_loop(self, case: Case):
        for routing in ROUTINGS:
            problem = make_problem(routing, case.devices * TOKENS, case.experts, case.top_k, SIZE)
            result = run(self.transport, case, problem)
            counts = self.count(case, problem.experts_tk)
            if case.overflow == "rounds":
                assert counts.served_tk.all()
            answer = solve(problem, counts.served_tk)
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
        queued = tokens * (case.devices if self.queues_are == "per group" else 1)
        limit = queued * case.experts * d
        largest = max((v.aval for eqn in equations for v in eqn.outvars), key=lambda a: a.size)
        assert largest.size < limit, f"{largest} holds {largest.size} elements, limit {limit}"

    @pytest.mark.parametrize("case", FAST)
    def test_rows_that_it_announces_are_those_that_it_fills(self, case: Case):
        problem = make_problem("balanced", case.devices * TOKENS, case.experts, case.top_k, SIZE)
        stats = run(self.transport, case, problem).stats
        spec = make_spec(self.transport, case)
        rows = spec.transport.rows_per_round(spec, TOKENS, case.top_k)
        rounds = 1 + stats.overflow_rounds
        filled = self.rows_here(case, problem.experts_tk) - stats.rows_dropped
        np.testing.assert_array_equal(stats.rows_padded + filled, rounds * rows)

    def rows_here(self, case: Case, experts_tk: np.ndarray) -> np.ndarray:
        """Returns per device how many choices stand in its queues."""
        if self.queues_are == "per device":
            return np.full(case.devices, TOKENS * case.top_k)
        groups = experts_tk.reshape(case.data, -1)
        holders = [np.bincount(g // case.per_device, minlength=case.expert) for g in groups]
        return np.concatenate(holders)

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
        off_device, off_host = self.count_moves(case, by_device)
        np.testing.assert_array_equal(stats.rows_off_device, off_device)
        np.testing.assert_array_equal(stats.rows_off_host, off_host)

    def count_moves(self, case: Case, by_device: np.ndarray) -> tuple[list[int], list[int]]:
        """Returns per device the choices whose expert is on another device, and another host."""
        off_device, off_host = [], []
        for p, choices in enumerate(by_device):
            group = p - p % case.expert
            holders = [group + expert // case.per_device for expert in choices]
            off_device.append(sum(q != p for q in holders))
            off_host.append(sum(case.hosts[q] != case.hosts[p] for q in holders))
        return off_device, off_host

    def count(self, case: Case, experts_tk: np.ndarray) -> Counts:
        """Returns who is served and what that costs, by walking the queues one by one."""
        joint = self.queues_are == "per group"
        shared = case.expert if joint else 1
        sources = 1 if joint or TRANSPORTS[self.transport].gathers_experts else case.expert
        rows = capacity(shared * TOKENS, case.top_k, case.experts, case.factor, sources)
        served, dropped, rounds, slots = [], [], [], []
        for tokens_tk in experts_tk.reshape(-1, shared * TOKENS, case.top_k):
            load = np.bincount(tokens_tk.ravel(), minlength=case.experts)
            served.append(served_in_order(tokens_tk, rows))
            # A device works through the queues of all experts, or of its own in a joint queue.
            for own in load.reshape(case.expert if joint else 1, -1):
                dropped.append(int(np.maximum(own - rows, 0).sum()))
                rounds.append(max(int(np.ceil(own.max() / rows)) - 1, 0))
                slots.append((own.size * rows, int(own.sum())))
        if case.overflow == "rounds":
            served, dropped = [np.ones_like(s) for s in served], [0] * case.devices
        else:
            rounds = [0] * case.devices
        if self.rounds_agree:
            groups = np.reshape(rounds, (-1, case.expert)).max(axis=1)
            rounds = list(np.repeat(groups, case.expert))
        padded = [
            (1 + extra) * size - (total - lost)
            for extra, (size, total), lost in zip(rounds, slots, dropped, strict=True)
        ]
        return Counts(np.concatenate(served), np.array(dropped), np.array(rounds), np.array(padded))
