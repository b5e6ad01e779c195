"""`plan --into`: what a regeneration would reuse, decode, render and drop, before anything is spent."""

from argparse import Namespace
from collections.abc import Callable, Mapping

from cascade_batch.cli.planning import Speed, check_speed, plan_lines, print_plan
from cascade_batch.collection.place import is_free
from cascade_batch.collection.regenerating.asking import NO_IDS
from cascade_batch.collection.regenerating.assessing import Options
from cascade_batch.collection.regenerating.comparing import State
from cascade_batch.collection.regenerating.forecasting import Forecast, forecast
from cascade_batch.model.stages import STAGES, PerPool
from cascade_batch.pipeline.rates import Configs, Rates, image_flops, measured_in
from cascade_batch.pipeline.runners.runner import Runner
from cascade_batch.plan.planning import ImageGroup
from cascade_batch.settings import Spec


def print_forecast(spec: Spec, arguments: Namespace, speed: Speed, make_runner: Callable[[], Runner]) -> None:
    """Images by what would be done for them, PFLOP and padding of the run; hours only from a measured rate."""
    check_speed(speed)
    if is_free(arguments.into):
        print(f"note     {arguments.into} is new: everything would be rendered")
        return print_plan(spec, speed)
    options = Options(bits=arguments.reuse == "bits", retry_failed=arguments.retry_failed == "always")
    found = forecast(spec, arguments.into, make_runner, options)
    for line in forecast_lines(found):
        print(line)
    configs = Configs.read(found.asked.model.parts)
    print(f"PFLOP    {sum(_flops(found, configs)) / 1e15:,.3g}")
    if found.plan is None:
        return print("hours    0: there is nothing to render")
    for line in plan_lines(found.plan, spec):
        print(line)
    return _print_hours(spec, found, speed, configs)


def forecast_lines(found: Forecast) -> list[str]:
    """Prompts and images, by state."""
    of, decode, render = found.states, sum(found.decoded.values()), sum(found.rendered.values())
    shared = of[State.EMBEDDING] + of[State.NOTHING] - decode - render
    lines = [
        f"prompts  {found.asked.table.rows:,} in {len(found.asked.table.files):,} files",
        f"images   {found.images:,}",
        f"reuse    {of[State.PICTURE]:,} pictures that are known",
        f"decode   {decode:,} from known embeddings, Stage B and A alone",
        f"render   {render:,} through both stages",
        f"drop     {found.withdrawn:,} that the newest edition has and the table has not",
    ]
    if shared:
        lines.append(f"share    {shared:,} a picture or an embedding with one of these")
    if found.asked.table.default_ids:
        lines.append(f"note     {NO_IDS}")
    if of[State.REFUSED]:
        lines.append(f"fail     {of[State.REFUSED]:,} whose rows cannot be asked for")
    if of[State.LEFT]:
        lines.append(f"leave    {of[State.LEFT]:,} that failed before")
    return lines


def _flops(found: Forecast, configs: Configs) -> PerPool[int]:
    """Of the run, by pool: an embedding that is known costs pool C nothing."""
    decoded, rendered = _of(found.decoded, configs), _of(found.rendered, configs)
    return PerPool(rendered.c, rendered.ba + decoded.ba)


def _of(groups: Mapping[ImageGroup, int], configs: Configs) -> PerPool[int]:
    each = [(image_flops(group, configs), images) for group, images in groups.items()]
    return PerPool.of(lambda stage: sum(cost[stage] * images for cost, images in each))


def _print_hours(spec: Spec, found: Forecast, speed: Speed, configs: Configs) -> None:
    if speed.rate:
        print(f"hours    {found.to_render / speed.rate / 3600:,.2f} at {speed.rate:,.2f} images/s")
    elif speed.rate_from or speed.calibrate:
        seconds = _seconds(found, _rates(spec, found, speed, configs))
        print(f"busy     pool C {seconds.c / 3600:,.2f} h, pool BA {seconds.ba / 3600:,.2f} h")
        if speed.gpus:
            total = sum(seconds) / 3600
            print(f"hours    {total / speed.gpus:,.2f} at best on {speed.gpus} GPUs, {total:,.2f} GPU-hours")
        else:
            hours = max(seconds[stage] / (spec.pools[stage].actors or 1) for stage in STAGES) / 3600
            print(f"hours    {hours:,.2f}")
    else:
        print("hours    unknown: give --rate IMAGES_PER_SECOND, --rate-from RUN or --calibrate")


def _rates(spec: Spec, found: Forecast, speed: Speed, configs: Configs) -> Rates:
    """Seconds of one image that goes through both stages, of the kinds that are to be made."""
    groups = {**found.decoded}
    for group, images in found.rendered.items():
        groups[group] = groups.get(group, 0) + images
    if speed.rate_from:
        return measured_in(speed.rate_from).rates_of(groups, configs)
    from cascade_batch.pipeline.calibration import calibrate  # torch: for this flag alone

    assert found.plan is not None
    return calibrate(spec, found.plan, found.asked.model).rates_of(groups, configs)


def _seconds(found: Forecast, rates: Rates) -> PerPool[float]:
    """Busy seconds of each pool."""
    rendered = sum(found.rendered.values())
    return PerPool(rendered * rates.c.seconds, found.to_render * rates.ba.seconds)
