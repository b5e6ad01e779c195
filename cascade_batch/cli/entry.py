"""Parse, run one command, turn what happened into an exit code."""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from cascade_batch.cli import logging
from cascade_batch.cli.arguments import build_parser, spec_flags
from cascade_batch.cli.completing import complete
from cascade_batch.cli.embeddings import stored_embeddings
from cascade_batch.cli.exit_codes import (
    BAD_INPUT,
    BUSY,
    FAILED,
    FINISHED,
    INTERRUPTED,
    TOO_MANY_FAILED,
    UNREAD,
)
from cascade_batch.cli.showing import make_observer, summary
from cascade_batch.cli.status import status_command
from cascade_batch.errors import CascadeError, PromptTableError, SpecError, StorageError, WeightsError
from cascade_batch.pipeline import sitting
from cascade_batch.pipeline.runners.local import LocalRunner
from cascade_batch.pipeline.runners.ray_environment import prepare_own_cluster
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.run import records
from cascade_batch.settings import Spec, load_spec
from cascade_batch.settings.explained import explained_yaml
from cascade_batch.storage import ObjectExists, ObjectMissing
from cascade_batch.storage.failures import ending
from cascade_batch.storage.urls import is_absolute

RAY_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this variable for the entry point of a submitted job."""

_EXIT_OF_STATE = {
    records.FINISHED: FINISHED,
    records.INCOMPLETE: FAILED,
    records.TOO_MANY_FAILED: TOO_MANY_FAILED,
    records.INTERRUPTED: INTERRUPTED,
}


def entry() -> None:
    """The `cascade-batch` program."""
    complete()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who reads our output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        code = UNREAD
    sys.stderr.flush()
    if (
        "ray" not in sys.modules
    ):  # whose driver takes its leave; Arrow's threads may abort a process that ends
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Run one command line; returns one of `exit_codes`."""
    arguments = build_parser().parse_args(argv)
    ending.clear()
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # elsewhere it is ignored, or another's
        signal.signal(signal.SIGINT, _interrupt_by_hand)
    commands = {
        "render": _render,
        "plan": _plan,
        "regenerate": _regenerate,
        "import": _import,
        "status": lambda arguments, _: status_command(arguments),
        "verify": _verify,
        "collection": _collection,
        "model": _model,
        "settings": _settings,
        "demo": _demo,
    }
    try:
        return commands[arguments.command](arguments, argv)
    except CascadeError as error:
        print(f"error: {error}", file=sys.stderr)
        return _exit_of(error)
    except KeyboardInterrupt:
        print("interrupted; what is committed is safe. Repeat the command to go on.", file=sys.stderr)
        return INTERRUPTED


def _exit_of(error: CascadeError) -> int:
    if error.busy:
        return BUSY
    return BAD_INPUT if _is_bad_input(error) else FAILED


def _is_bad_input(error: CascadeError) -> bool:
    """Whether the user has something to correct, and nothing was spent. A missing object is damage to a run."""
    if error.spent:
        return False
    if isinstance(error, StorageError):
        return not error.transient and not isinstance(error, ObjectMissing | ObjectExists)
    return isinstance(error, SpecError | PromptTableError | WeightsError)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does; a second one must not disturb the clean-up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ending.set()
    raise KeyboardInterrupt


def _interrupt_by_hand(_signum: int, _frame: FrameType | None) -> None:
    ending.set()  # threads that wait for a store would hold the end up
    raise KeyboardInterrupt


def _spec(arguments) -> Spec:
    spec = load_spec(_spec_text(arguments.spec), arguments.sets, spec_flags(arguments))
    logging.configure(spec.log.level, spec.log.format)
    if not spec.prompts.uri:
        into = "--out RUN" if arguments.command == "render" else "..."
        command = f"cascade-batch {arguments.command} PROMPTS {into}"
        raise SpecError("no prompt table", next_step=f"name it: {command}")
    return spec


def _spec_text(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("cannot read the spec file", where=path, got=error) from None


def _render(arguments, argv: Sequence[str]) -> int:
    spec = _spec(arguments)
    _check_out(spec.output.uri)
    observer = make_observer()
    try:
        outcome = sitting.render(
            spec,
            _runner_maker(arguments.runner, spec.log.level == "debug"),
            observer,
            retry_failed=arguments.retry_failed,
            take_over=arguments.take_over,
            stored=stored_embeddings(spec.prompts.embeddings_from),
        )
    finally:
        observer.close()
    print(summary(outcome, spec.output.uri, argv))
    return _EXIT_OF_STATE[outcome.state]


def _check_out(uri: str) -> None:
    if not uri:
        raise SpecError("nowhere to write", next_step="add --out RUN, a folder or a bucket prefix")
    _check_place(uri, "output.uri")
    _check_no_collection(uri)


def _check_no_collection(uri: str) -> None:
    """Its Delta table would lie among the run's own files."""
    from cascade_batch.collection.place import is_collection

    if is_collection(uri):
        raise SpecError(
            "a run of its own does not belong into a collection",
            where="output.uri",
            got=uri,
            next_step=f"cascade-batch regenerate PROMPTS --into {uri}, or choose another --out",
        )


def _check_place(uri: str, where: str) -> None:
    if RAY_JOB_MARK in os.environ and not is_absolute(uri):
        raise SpecError(
            "a job's working directory is deleted with the job, and the run with it",
            where=where,
            got=uri,
            expected="a URL, or an absolute path that every node shares",
        )


def _runner_maker(name: str, verbose: bool) -> Callable[[], Runner]:
    """Makes the runner when there is work; Ray is imported then, not before."""

    def make() -> Runner:
        if name == "local":
            return LocalRunner()
        prepare_own_cluster()
        from cascade_batch.pipeline.runners.ray_data import RayRunner

        return RayRunner(verbose)

    return make


def _plan(arguments: Namespace, _argv: Sequence[str]) -> int:
    from cascade_batch.cli.planning import Speed, print_plan

    speed = Speed(arguments.rate, arguments.rate_from, arguments.calibrate, arguments.gpus)
    spec = _spec(arguments)
    if arguments.into is not None:
        from cascade_batch.cli.forecasting import print_forecast

        print_forecast(spec, arguments, speed, _runner_maker(arguments.runner, spec.log.level == "debug"))
        return FINISHED
    print_plan(spec, speed)
    return FINISHED


def _regenerate(arguments: Namespace, _argv: Sequence[str]) -> int:
    from cascade_batch.cli.regenerating import regenerate_command

    spec = _spec(arguments)
    _check_place(arguments.into, "--into")
    if spec.output.uri or spec.prompts.embeddings_from is not None:
        raise SpecError(
            "a regeneration has its runs, and its embeddings, in the collection",
            where="output.uri" if spec.output.uri else "prompts.embeddings_from",
            next_step="leave it out; cascade-batch import RUN --into COLLECTION makes another run's embeddings known",
        )
    if arguments.edition is not None and not arguments.edition.strip():
        raise SpecError(
            "the name of an edition is empty", where="--edition", next_step="name it, or leave it out"
        )
    return regenerate_command(arguments, spec, _runner_maker(arguments.runner, spec.log.level == "debug"))


def _import(arguments: Namespace, _argv: Sequence[str]) -> int:
    from cascade_batch.cli.regenerating import import_command

    return import_command(arguments)


def _verify(arguments: Namespace, _argv: Sequence[str]) -> int:
    from cascade_batch.cli.verifying import verify_command

    return verify_command(arguments.run, arguments.reopen)


def _collection(arguments: Namespace, _argv: Sequence[str]) -> int:
    from cascade_batch.cli.collections import collection_command

    return collection_command(arguments, _runner_maker(getattr(arguments, "runner", "ray"), verbose=False))


def _settings(_arguments: Namespace, _argv: Sequence[str]) -> int:
    print(explained_yaml(), end="")
    return FINISHED


def _demo(arguments: Namespace, _argv: Sequence[str]) -> int:
    from cascade_batch.cli.demo import demo_command

    return demo_command(Path(arguments.file))


def _model(arguments: Namespace, _argv: Sequence[str]) -> int:
    if arguments.action == "inspect":
        from cascade_batch.cli.inspecting import inspect_command

        return inspect_command(arguments.model)
    from cascade_batch.cli.converting import convert_command

    return convert_command(arguments.model, Path(arguments.folder), arguments.to)
