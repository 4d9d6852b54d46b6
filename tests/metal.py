"""Metal kernels in the graded tests: run in several orders of the threads, where simulated."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx

import metal_simulator
from tiny_llm_lab.kernels import uses_simulator

ORDERS = (0, 1, 2, 3)
"""Ascending, descending, and two seeds of a random interleaving."""


def in_orders(
    call: Callable[[], mx.array], orders: Sequence[int] = ORDERS
) -> Iterator[tuple[mx.array, str]]:
    """The results of a call, one for each order of the threads, and what to call the order.

    On Apple's GPU nobody can choose the order, and there is one result.
    """
    if not uses_simulator():
        yield call(), ""
        return
    for order in orders:
        with metal_simulator.watch(order=order):
            yield call(), f", threads in order {order}"


@contextmanager
def kernels_run() -> Iterator[list[str]]:
    """The names of the kernels that are launched inside, in order; none on Apple's GPU."""
    names: list[str] = []
    with metal_simulator.watch() as launches:
        yield names
    names += [launch.kernel for launch in launches]
