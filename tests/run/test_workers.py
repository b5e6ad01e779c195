"""What both pools do with a shard, without torch: batches, padding, halving, attempts."""

import subprocess
import sys
import weakref

import pytest

from cascade_batch.errors import CascadeError
from cascade_batch.workers.batch_sizes import BatchSizes
from cascade_batch.workers.batching import Batch, halves, make_batches
from cascade_batch.workers.ledger import AttemptLedger
from cascade_batch.workers.rendering import (
    BatchRefused,
    DeviceOutOfMemory,
    RowResult,
    blame_nobody,
    render_shard,
    take_in_hand,
)
from tests.patience import PATIENCE_S


def request(prompt: int, size: int = 256, guidance: float = 4.0, steps: int = 20) -> dict:
    return {
        "row": prompt,
        "height": size,
        "width": size,
        "prior_steps": steps,
        "prior_guidance_scale": guidance,
    }


class Died(BaseException):
    """Stands for a process that is gone."""


def test_pool_ba_starts_without_transformers() -> None:
    code = "import sys, cascade_batch.workers.stage_ba; sys.exit('transformers' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, timeout=PATIENCE_S, check=False).returncode == 0


def test_batches_are_full_and_hold_one_kind_of_image() -> None:
    requests = [request(0), request(1, guidance=1.0), request(2), request(3, size=512), request(4)]
    batches = make_batches(requests, range(5), "prior", BatchSizes(2))
    assert [(b.rows, b.real, b.guided, b.height) for b in batches] == [
        ((0, 2), 2, True, 256),
        ((4, 4), 1, True, 256),
        ((1, 1), 1, False, 256),
        ((3, 3), 1, True, 512),
    ]


def test_images_of_different_kinds_never_share_a_batch() -> None:
    requests = [request(i, size=512 if i == 3 else 256) for i in range(6)]
    kinds = [1, "two", 1, 1, ("two", 2), "two"]
    batches = make_batches(requests, [0, 1, 2, 3, 5], "prior", BatchSizes(2), kinds)
    assert [(b.rows, b.real) for b in batches] == [((0, 2), 2), ((1, 5), 2), ((3, 3), 1)]


def test_guidance_scales_share_a_batch_if_all_are_on() -> None:
    (batch,) = make_batches(
        [request(0, guidance=2.0), request(1, guidance=7.5)], range(2), "prior", BatchSizes(2)
    )
    assert batch.real == 2


def test_halves_drop_padding_only_batches() -> None:
    batch = Batch((0, 1, 1, 1), 2, 256, 256, 20, True)
    assert [(b.rows, b.real) for b in halves(batch)] == [((0, 1), 2)]


def run(requests, ledger, render, size=2, failed=None, kinds=None, blame=blame_nobody):
    attempt = take_in_hand(ledger, "prior", 7)
    results = render_shard(
        requests,
        stage="prior",
        shard=7,
        attempt=attempt,
        batch_sizes=lambda: BatchSizes(size),
        ledger=ledger,
        render=render,
        already_failed=failed or {},
        kinds=kinds,
        blame=blame,
    )
    return results, attempt


def test_results_come_in_row_order_and_failed_rows_are_not_rendered() -> None:
    rendered: list[int] = []

    def render(batch, requests):
        rendered.extend(batch.rows[: batch.real])
        return [RowResult(row) for row in batch.rows[: batch.real]]

    requests = [request(i, guidance=1.0 if i % 2 else 4.0) for i in range(5)]
    results, attempt = run(
        requests, AttemptLedger(3), render, failed={3: RowResult(error_code="null_prompt")}
    )
    assert [r.value for r in results] == [0, 1, 2, None, 4]
    assert 3 not in rendered
    assert attempt.number == 1


def test_kinds_hold_for_the_halves_of_a_batch_too() -> None:
    kinds, seen = [i % 2 for i in range(8)], []

    def render(batch, requests):
        seen.append({kinds[row] for row in batch.rows})
        if len(batch.rows) > 2:
            raise DeviceOutOfMemory("full")
        return [RowResult(row) for row in batch.rows[: batch.real]]

    results, _ = run([request(i) for i in range(8)], AttemptLedger(3), render, size=4, kinds=kinds)
    assert [r.value for r in results] == list(range(8))
    assert seen == [{0}] * 3 + [{1}] * 3


def test_a_batch_out_of_memory_is_halved_and_marked() -> None:
    def render(batch, requests):
        if len(batch.rows) > 2:
            raise DeviceOutOfMemory("full")
        return [RowResult(row) for row in batch.rows[: batch.real]]

    results, _ = run([request(i) for i in range(6)], AttemptLedger(3), render, size=4)
    assert [r.value for r in results] == list(range(6))
    assert {r.batch for r in results} == {2}


def test_out_of_memory_at_batch_1_fails_that_row_only() -> None:
    def render(batch, requests):
        if 2 in batch.rows:
            raise DeviceOutOfMemory("full")
        return [RowResult(row) for row in batch.rows[: batch.real]]

    results, _ = run([request(i) for i in range(4)], AttemptLedger(3), render, size=4)
    assert [r.error_code for r in results] == [None, None, "out_of_memory", None]


def refusing(*refused: int):
    def render(batch, requests):
        if set(refused) & set(batch.rows):
            raise BatchRefused(KeyError("refused"))
        return [RowResult(row) for row in batch.rows[: batch.real]]

    return render


def test_a_refused_batch_is_parted_at_its_own_size_until_the_row_is_found() -> None:
    def blame(error: Exception, row: int) -> RowResult:
        return RowResult(error_code="bad_condition", error_message=f"{row}: {error!r}")

    ledger = AttemptLedger(3)
    results, _ = run([request(i) for i in range(8)], ledger, refusing(2, 5), size=8, blame=blame)
    assert [r.value for r in results] == [0, 1, None, 3, 4, None, 6, 7]
    assert results[2].error_message == "2: KeyError('refused')"
    assert {r.batch for r in results if r.error_code is None} == {8}


def test_a_worker_that_refuses_everything_raises_what_it_raised() -> None:
    with pytest.raises(KeyError):
        run([request(i) for i in range(3)], AttemptLedger(3), refusing(0, 1, 2), size=4)


@pytest.mark.parametrize("limit", [2, 3])
def test_a_deadly_prompt_is_failed_after_its_attempts_and_its_mates_are_rendered(limit: int) -> None:
    deaths = 0
    ledger = AttemptLedger(limit)

    def render(batch, requests):
        nonlocal deaths
        if any(requests[row]["row"] == 1 for row in batch.rows):
            deaths += 1
            raise Died
        return [RowResult(row) for row in batch.rows[: batch.real]]

    requests = [request(0), request(1), request(1), request(2)]
    for _ in range(limit + 1):
        try:
            results, attempt = run(requests, ledger, render)
        except Died:
            continue
        break
    assert deaths == limit
    assert attempt.number == limit + 1
    assert [r.error_code for r in results] == [None, "worker_died", "worker_died", None]


def test_two_deadly_prompts_both_end() -> None:
    ledger, deaths = AttemptLedger(2), 0

    def render(batch, requests):
        nonlocal deaths
        if any(requests[row]["row"] in (0, 2) for row in batch.rows):
            deaths += 1
            raise Died
        return [RowResult(row) for row in batch.rows[: batch.real]]

    while True:
        try:
            results, _ = run([request(i) for i in range(4)], ledger, render)
            break
        except Died:
            assert deaths < 10
    assert [r.error_code for r in results] == ["worker_died", None, "worker_died", None]
    assert deaths == 3  # the whole shard once, then each deadly prompt alone


def test_a_shard_whose_workers_die_for_no_prompt_is_given_up() -> None:
    """Deaths after the rendering, such as handing on more than the memory holds, must end as well."""
    ledger = AttemptLedger(3)

    def render(batch, requests):
        return [RowResult(row) for row in batch.rows[: batch.real]]

    for _ in range(6):
        run([request(0)], ledger, render)
    with pytest.raises(CascadeError, match="no single prompt is to blame"):
        run([request(0)], ledger, render)
    assert ledger.take("decoder", 7).number == 1  # the other stage has a count of its own


def test_a_shard_that_lay_beside_a_deadly_one_has_no_attempt_more() -> None:
    ledger = AttemptLedger(2)
    for _ in range(6):  # of two in hand, the first one kills the worker
        assert take_in_hand(ledger, "prior", 7).number == 1
    results, attempt = run([request(0)], ledger, lambda batch, requests: [RowResult(0)])
    assert (attempt.number, attempt.one_by_one, results[0].value) == (1, False, 0)


def test_workers_that_die_before_they_can_say_that_they_began_are_given_up() -> None:
    ledger = AttemptLedger(2)
    for _ in range(12):
        take_in_hand(ledger, "prior", 7)
    with pytest.raises(CascadeError, match="no single prompt is to blame"):
        take_in_hand(ledger, "prior", 7)


def test_memory_of_a_failed_batch_is_free_before_its_halves_run() -> None:
    alive: list[weakref.ref] = []

    class Tensor:
        pass

    def render(batch, requests):
        assert all(tensor() is None for tensor in alive)
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        if len(batch.rows) > 1:
            try:
                raise ValueError
            except ValueError:
                raise DeviceOutOfMemory("full") from None
        return [RowResult(row) for row in batch.rows[: batch.real]]

    results, _ = run([request(i) for i in range(4)], AttemptLedger(3), render, size=4)
    assert [r.value for r in results] == [0, 1, 2, 3]
