"""How large a whole model or an upper half will be, from the shapes of an empty model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from splitfrozen_export.dry_run import download_line
from splitfrozen_export.estimate import (
    Weight,
    bytes_by_precision,
    data_bytes,
    describe_weight,
    memory_bytes,
)
from splitfrozen_export.home.plan import HomePlan, make_home_plan
from splitfrozen_export.home.task import empty_model
from splitfrozen_export.home.trace import layer_in
from splitfrozen_export.precision.census import LINEAR
from splitfrozen_export.request import Request
from splitfrozen_export.split.blocks import count_layers
from splitfrozen_export.split.probe import count_block_outputs
from splitfrozen_export.split.server import keep_upper_blocks
from splitfrozen_export.split.source import absent_files
from splitfrozen_export.words import megabytes


@dataclass(frozen=True)
class HomeForecast:
    """A plan in numbers. Sizes are estimates, within a few percent."""

    plan: HomePlan
    fp32_bytes: int  # of the weights
    data_bytes: int  # of the graph's data file as asked for
    by_precision: Mapping[str, int]  # the same for every precision
    memory: Mapping[str, int]  # peak bytes: export, device
    download: Mapping[str, int | None]  # bytes still to fetch, by file; None: the Hub did not say

    def summary_json(self) -> dict[str, Any]:
        """The forecast for a script."""
        plan, request = self.plan, self.plan.request
        return {
            "dry_run": True,
            "kind": "whole" if request.whole else "server_half",
            "output": str(request.output),
            "model": plan.source.id,
            "revision": plan.source.revision,
            "family": plan.source.config.model_type,
            "task": plan.purpose.task,
            "labels": list(plan.purpose.labels),
            "adapter": None if plan.adapter is None else str(plan.adapter.path),
            "cut": None if request.whole else request.cut,
            "num_layers": count_layers(plan.source.config),
            "precision": request.precision,
            "embedding": plan.recipe.embedding,
            "parameters": self.fp32_bytes // 4,
            "fp32_bytes": self.fp32_bytes,
            "data_bytes": self.data_bytes,
            "data_bytes_by_precision": dict(self.by_precision),
            "memory_bytes": dict(self.memory),
            "download_bytes": dict(self.download),
        }

    def summary_lines(self) -> list[str]:
        """The same for a person."""
        plan, request = self.plan, self.plan.request
        blocks = count_layers(plan.source.config)
        first = "whole model" if request.whole else f"blocks {request.cut}..{blocks - 1} and head"
        others = ", ".join(f"{name} {megabytes(size)}" for name, size in self.by_precision.items())
        merged = "none" if plan.adapter is None else f"{plan.adapter.path}, to be merged"
        return [
            f"Dry run: nothing is read or written. {plan.source.id} "
            f"({plan.source.config.model_type}), {first}, precision {request.precision}",
            f"Adapter    {merged}",
            f"Model      {self.fp32_bytes // 4:,} parameters, {megabytes(self.fp32_bytes)} in fp32",
            f"Directory  {request.output}: about {megabytes(self.data_bytes)} of weights",
            f"           other precisions: {others}",
            f"Memory     about {megabytes(self.memory['export'])} for this export, "
            f"{megabytes(self.memory['device'])} to run it",
            f"Download   {download_line(self.download)}",
        ]


def forecast_home(request: Request) -> HomeForecast:
    """Plan the export and work out its sizes; raises what `make_home_plan` raises."""
    plan = make_home_plan(request)
    weights = answering_weights(plan)
    data = data_bytes(weights, plan.recipe)
    return HomeForecast(
        plan,
        sum(weight.fp32_bytes for weight in weights),
        data,
        bytes_by_precision(weights),
        memory_bytes(weights, data),
        absent_files(plan.source),
    )


def answering_weights(plan: HomePlan) -> list[Weight]:
    """What the graph will hold; a tied head is one product and one table that shares its codes.

    Both are called like the head, as in the graph.
    """
    model = empty_model(plan.source, plan.purpose)
    if not plan.request.whole:
        _drop_lower(model, plan)
    modules = dict(model.named_modules())
    prefix = str(model.base_model_prefix)
    heads = _multiplied(modules)
    found = []
    for name, parameter in model.named_parameters():
        looked_up = isinstance(modules[name.rpartition(".")[0]], nn.Embedding)
        layer = layer_in(f"model.{heads.get(id(parameter), name)}", prefix)
        weight = replace(describe_weight(name, parameter, modules), name=layer)
        if looked_up and id(parameter) in heads:
            found.append(replace(weight, shape=weight.shape[::-1], kind="product"))
            weight = replace(weight, tied=True)
        if plan.request.whole or not looked_up:
            found.append(weight)
    return found


def _drop_lower(model: nn.Module, plan: HomePlan) -> None:
    config, code = plan.source.config, plan.source.code
    outputs = count_block_outputs(config, code=code)
    keep_upper_blocks(model, layers=count_layers(config), cut=plan.request.cut, outputs=outputs)


def _multiplied(modules: Mapping[str, nn.Module]) -> dict[int, str]:
    """The parameters that a linear layer multiplies by, and their names in the last such layer."""
    return {
        id(module.weight): f"{path}.weight"
        for path, module in modules.items()
        if isinstance(module, LINEAR)
    }
