"""A metric over the depths of a mask plan, shallow and deep, and over sizes of models: HatLLM's sensitivity study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa
import torch
from transformers import AutoModelForCausalLM

from rectool.errors import RectoolError
from rectool.evaluation.figures import label
from rectool.evaluation.runs import Measure, Run
from rectool.figures.drawing import Drawing
from rectool.figures.settings import Measured
from rectool.llm import document
from rectool.llm.backbone import Backbone
from rectool.llm.files import CONFIG, hushed
from rectool.llm.mask_plan import MaskKind, MaskPlan
from rectool.llm.origins import backbone_of, itself, tuned_from
from rectool.plots import DASHES, MARKERS, PALETTE, set_legend, set_title, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

End: TypeAlias = Literal["shallow", "deep"]
ENDS: dict[End, frozenset[MaskKind]] = {
    "shallow": frozenset({"in", "isolate"}),
    "deep": frozenset({"cr", "cr-pre", "cr-last"}),
}
"""Kinds that a plan has at the bottom and at the top, around layers that are as usual."""
OTHER: dict[End, End] = {"shallow": "deep", "deep": "shallow"}
USUAL = {"next-item": "ndcg@10", "ctr": "uauc"}
POINTS = pa.schema(
    [
        ("run", pa.string()),
        ("mask", pa.string()),
        ("shallow", pa.int32()),  # layers at the bottom that keep items apart
        ("shallow_kind", pa.string()),  # null where there are none
        ("deep", pa.int32()),  # layers at the top that look across items
        ("deep_kind", pa.string()),
        ("layers", pa.int32()),  # of the model
        ("backbone", pa.string()),
        ("parameters", pa.int64()),  # of the backbone
        ("group", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
Point: TypeAlias = Mapping[str, Any]
Curve: TypeAlias = dict[int, tuple[float, float | None, float | None]]
"""Value, and the ends of its interval, by what it is drawn over."""


def drawing(runs: Sequence[Run], measured: Measured) -> Drawing:
    """A metric of results over the depths of their models' masks, and over the models' sizes.

    Raises:
        RectoolError: a result is of no language model, has not the metric, or its plan has other layers than shallow
            ones at the bottom and deep ones at the top; or all are of one depth and one size.
    """
    metric = measured.metric or USUAL[str(runs[0].about["task"])]
    points = [_point(run, measured.group, metric) for run in runs]
    panels = {axis: lines for axis in ("shallow", "deep", "parameters") if (lines := curves(points, axis))}
    if not panels:
        raise RectoolError(
            "plot sensitivity needs results whose masks differ in depth at one end, or whose models differ in size"
        )
    data = pa.Table.from_pylist([dict(point) for point in points], POINTS)
    title = f"{runs[0].data_name()}, {runs[0].about['split']} rows, group {measured.group}: {label(metric)}"
    best = max(points, key=lambda point: point["value"])
    summary = {"metric": metric, "group": measured.group, "highest": best["run"], "value": best["value"]}
    return Drawing("sensitivity", data, lambda: draw(title, label(metric), panels), summary)


def ends(kinds: Sequence[MaskKind]) -> dict[End, tuple[MaskKind | None, int]] | None:
    """The kind of the layers at the bottom and at the top, and how many these are.

    None for a plan that has another kind than `or` between them.
    """
    bottom, top = _run(kinds, "shallow"), _run(kinds[::-1], "deep")
    if any(kind != "or" for kind in kinds[bottom[1] : len(kinds) - top[1]]):
        return None
    return {"shallow": bottom, "deep": top}


def _run(kinds: Sequence[MaskKind], end: End) -> tuple[MaskKind | None, int]:
    if not kinds or kinds[0] not in ENDS[end]:
        return None, 0
    return kinds[0], len(list(takewhile(lambda kind: kind == kinds[0], kinds)))


def curves(points: Sequence[Point], axis: str) -> dict[str, Curve]:
    """The lines of a panel by their names: those with values at more than one place.

    Of several results in one place, such as of several seeds, the mean is shown, from the lowest to the highest.

    Args:
        axis: "shallow", "deep" or "parameters".
    """
    several = len({point["backbone"] for point in points}) > 1
    lines: dict[str, dict[int, list[Point]]] = {}
    for point in points:
        for name in _names(points, point, axis, several=several):
            lines.setdefault(name, {}).setdefault(point[axis], []).append(point)
    return {
        name: {place: _together(found) for place, found in sorted(places.items())}
        for name, places in lines.items()
        if len(places) > 1
    }


def _names(points: Sequence[Point], point: Point, axis: str, *, several: bool) -> Iterator[str]:
    """The lines that a point is on: where no layer has a mask, those of all kinds."""
    if axis == "parameters":
        yield f"mask {point['mask']}"
        return
    end: End = "shallow" if axis == "shallow" else "deep"
    other = OTHER[end]
    fixed = f"{point[f'{other}_kind']}:{point[other]}" if point[other] else f"no {other} layers"
    model = f", {point['backbone']}" if several else ""
    kinds = sorted({each[f"{end}_kind"] for each in points} - {None})
    for kind in kinds if point[end] == 0 else [point[f"{end}_kind"]]:
        yield f"{kind} layers beside {fixed}{model}"


def _together(found: Sequence[Point]) -> tuple[float, float | None, float | None]:
    values = [float(point["value"]) for point in found]
    if len(values) == 1:
        return values[0], found[0]["low"], found[0]["high"]
    return sum(values) / len(values), min(values), max(values)


def draw(title: str, metric: str, panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """One panel for each of what the metric is drawn over.

    Args:
        metric: how the upright axis is called.
        panels: by "shallow", "deep", "parameters": curves by their names.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.2 * len(panels), 6.0), 3.8))
    set_title(figure, title)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    handles: dict[str, Any] = {}
    labels = {"shallow": "shallow layers", "deep": "deep layers", "parameters": "parameters of the backbone"}
    for axes, (axis, lines) in zip(grid, panels.items(), strict=True):
        for name, curve in lines.items():
            place = len(handles)
            handles[name] = _line(axes, curve, place)
        axes.set_xlabel(labels[axis])
        places = sorted({place for curve in lines.values() for place in curve})
        if axis == "parameters":
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(places, [_short(place) if axis == "parameters" else str(place) for place in places])
    grid[0].set_ylabel(metric)
    set_legend(figure, list(handles.values()), [shortened(name) for name in handles])
    return figure


def _line(axes: Axes, curve: Curve, place: int) -> Any:
    values = [value for value, _, _ in curve.values()]
    below = [value - low if low is not None else 0.0 for value, low, _ in curve.values()]
    above = [high - value if high is not None else 0.0 for value, _, high in curve.values()]
    return axes.errorbar(
        list(curve),
        values,
        [[max(0.0, one) for one in below], [max(0.0, one) for one in above]],
        color=PALETTE[place % len(PALETTE)],
        linestyle=DASHES[place // len(PALETTE) % len(DASHES)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=4,
        linewidth=1.4,
        capsize=2,
        elinewidth=0.8,
    )


def _short(count: int) -> str:
    """1,234,567 as 1.2M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _point(run: Run, group: str, metric: str) -> dict[str, Any]:
    measure = _measure(run, group, metric)
    plan, backbone, origin = _model(run)
    kinds = plan.layers(int(backbone.config.get_text_config(decoder=True).num_hidden_layers))
    found = ends(kinds)
    if found is None:
        raise RectoolError(
            f"{run.artifact.path} has the mask {plan.text}, which is not shallow layers (in), usual ones (or) and deep "
            "ones (cr) from the bottom up; leave it out"
        )
    return {
        "run": run.name,
        "mask": plan.text,
        **{f"{end}_kind": kind for end, (kind, _) in found.items()},
        **{end: count for end, (_, count) in found.items()},
        "layers": len(kinds),
        "backbone": origin,
        "parameters": parameters(backbone),
        "group": group,
        "metric": metric,
        "value": measure.value,
        "low": measure.low,
        "high": measure.high,
    }


def _measure(run: Run, group: str, metric: str) -> Measure:
    measure = run.measures.get((group, metric))
    if measure is None or measure.value is None:
        known = ", ".join(dict.fromkeys(f"{each} of {name}" for name, each in run.measures))
        raise RectoolError(f"{run.artifact.path} has no {metric} of group {group}; it has {known}")
    return measure


def _model(run: Run) -> tuple[MaskPlan, Backbone, str]:
    """The mask plan of the model that was evaluated, its language model, and the name of what that was tuned from.

    Raises:
        RectoolError: the model is not there, or is no language model of rectool.
    """
    model = run.model()
    if model is None or model.manifest.kind != "llm":
        what = "the model of which is not there" if model is None else f"which is of a {model.manifest.kind} artifact"
        raise RectoolError(
            f"plot sensitivity is of models that rectool tune-lora or train-proj made; leave out {run.artifact.path}, "
            f"{what}"
        )
    said = document.read(model)
    mask = run.about.get("language_model", {}).get("mask", said["mask"])  # it may have been made stricter by eval
    is_whole = CONFIG in model.manifest.files
    backbone = itself(model) if is_whole else backbone_of(model, said["backbone"], None)
    return MaskPlan.parse(mask), backbone, tuned_from(model)


def parameters(backbone: Backbone) -> int:
    """How many numbers its weights are, from its configuration alone."""
    with hushed(), torch.device("meta"):
        return int(AutoModelForCausalLM.from_config(backbone.config).num_parameters())
