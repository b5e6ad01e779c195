"""Pools that fit and pools that do not."""

import pytest

from cascade_batch.errors import SpecError
from cascade_batch.plan.pools import Node, Pools, best_split, size_pools
from cascade_batch.settings import load_spec

SHARE_C = 0.72


def sized(nodes: list[Node], *sets: str) -> Pools:
    spec = load_spec("", sets)
    return size_pools(spec.pools, spec.model.dtype, nodes, SHARE_C)


def test_no_gpu_makes_cpu_pools_that_share_the_cores_and_have_all_while_the_other_waits() -> None:
    pools = sized([Node(cpus=8, gpus=0)])
    assert (pools.c.actors, pools.c.gpus, pools.c.settings.threads) == (1, 0, 8)
    assert pools.c.cpus * pools.c.actors + pools.ba.cpus * pools.ba.actors < 8


def test_two_cores_still_hold_both_pools_and_a_step() -> None:
    pools = sized([Node(cpus=2, gpus=0)])
    assert pools.c.cpus + pools.ba.cpus + pools.step_cpus <= 2
    assert pools.c.settings.threads == 2


def test_there_may_be_twice_as_many_actors_as_cores() -> None:
    pools = sized([Node(cpus=2, gpus=0)], "pools.ba.actors=2")
    assert (pools.c.settings.threads, pools.ba.settings.threads) == (1, 1)
    assert pools.c.cpus + 2 * pools.ba.cpus + pools.step_cpus <= 2
    assert sized([Node(cpus=2, gpus=0)], "pools.c.actors=2", "pools.ba.actors=2").c.settings.threads == 1


def test_more_threads_than_cores_take_turns() -> None:
    """A run fixes its threads where it begins, and may go on on a smaller machine."""
    assert sized([Node(cpus=2, gpus=0)], "pools.c.threads=16", "pools.ba.threads=16").c.cpus < 1


def test_one_gpu_is_shared() -> None:
    pools = sized([Node(cpus=8, gpus=1)])
    assert (pools.c.gpus, pools.ba.gpus) == (0.5, 0.5)


def test_eight_gpus_are_split_by_cost() -> None:
    pools = sized([Node(cpus=64, gpus=8)])
    assert (pools.c.actors, pools.ba.actors) == (6, 2)
    assert pools.c.cpus == 0


def test_cpu_pools_fit_clusters_of_several_nodes() -> None:
    for nodes in ([Node(8, 0)] * 3, [Node(8, 0)] * 4, [Node(0, 0), *[Node(4, 0)] * 4]):
        pools = sized(nodes)
        assert pools.c.settings.threads <= max(node.cpus for node in nodes)


@pytest.mark.parametrize(
    ("nodes", "sets", "actors", "gpus"),
    [
        ([Node(cpus=8, gpus=0)], [], 1, 0),
        ([Node(cpus=8, gpus=1)], [], 1, 1),
        ([Node(cpus=8, gpus=1)], ["pools.ba.gpus=0.5"], 1, 0.5),
        ([Node(cpus=64, gpus=8)], [], 8, 1),
        ([Node(cpus=64, gpus=8)], ["pools.c.actors=5", "pools.c.max_actors=7"], 8, 1),
        ([Node(cpus=64, gpus=8)], ["pools.ba.actors=3"], 3, 1),
    ],
)
def test_without_work_for_pool_c_all_is_pool_bas(
    nodes: list[Node], sets: list[str], actors: int, gpus: float
) -> None:
    spec = load_spec("", sets)
    pools = size_pools(spec.pools, spec.model.dtype, nodes, 0.0)
    assert (pools.c.actors, pools.c.most) == (0, 0)
    assert (pools.ba.actors, pools.ba.gpus) == (actors, gpus)
    assert pools.gpus == actors * gpus
    assert pools.c.settings.dtype == sized(nodes, "pools.ba.gpus=0").c.settings.dtype


def test_an_actor_without_a_gpu_share_stays_on_the_cpu() -> None:
    pools = sized([Node(cpus=8, gpus=2)], "pools.c.gpus=0")
    assert (pools.c.settings.device, pools.c.settings.dtype) == ("cpu", "float32")
    assert (pools.ba.settings.device, pools.ba.settings.dtype) == ("auto", "bfloat16")


def test_one_pool_given_leaves_the_rest_to_the_other() -> None:
    assert sized([Node(cpus=64, gpus=8)], "pools.c.actors=5").ba.actors == 3
    assert sized([Node(cpus=64, gpus=4)], "pools.ba.actors=1").c.actors == 3


@pytest.mark.parametrize("actors", [2, 3, 5, 8, 16, 100])
@pytest.mark.parametrize("share_c", [0.02, 0.3, 0.5, 0.72, 0.97])
def test_no_other_split_is_faster(actors: int, share_c: float) -> None:
    c = best_split(actors, share_c)
    assert 1 <= c < actors
    rates = {n: min(n / share_c, (actors - n) / (1 - share_c)) for n in range(1, actors)}
    assert rates[c] == max(rates.values())


def test_a_growing_pool_fits_at_its_least_and_shares_cores_at_its_most() -> None:
    pools = sized([Node(cpus=8, gpus=0)], "pools.c.max_actors=3")
    assert (pools.c.actors, pools.c.most, pools.c.settings.threads) == (1, 3, 4)
    assert (pools.ba.actors, pools.ba.most) == (1, 1)
    grown = sized([Node(cpus=64, gpus=8)], "pools.c.actors=2", "pools.c.max_actors=5")
    assert (grown.c.actors, grown.c.most, grown.ba.actors) == (2, 5, 3), "room to grow is left"
    with pytest.raises(SpecError, match="GPUs"):
        sized([Node(8, 2)], "pools.c.actors=2", "pools.c.max_actors=4", "pools.ba.actors=1")


@pytest.mark.parametrize(
    ("nodes", "sets", "needle"),
    [
        ([Node(8, 2)], ["pools.c.actors=2", "pools.ba.actors=1"], "GPUs"),
        ([Node(2, 0)], ["pools.c.actors=2", "pools.ba.actors=3"], "CPUs"),
        ([Node(8, 1), Node(8, 1)], ["pools.c.gpus=2", "pools.c.actors=1", "pools.ba.gpus=0"], "one node"),
        ([Node(8, 0)], ["pools.c.gpus=1"], "GPUs"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(nodes: list[Node], sets: list[str], needle: str) -> None:
    with pytest.raises(SpecError, match=needle) as caught:
        sized(nodes, *sets)
    assert "pool C" in str(caught.value)
