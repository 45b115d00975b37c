"""Command lines: every field of `Config` is a flag; the two programs differ in a few published defaults."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.arguments import ArgumentParser
from dataloaders.datasets.registry import dataset_spec
from engine.config import Config
from engine.flags import flags_of

# The programs and the defaults in which they differ from `Config`.
PROGRAMS: dict[str, dict[str, Any]] = {
    "main_pretrain.py": {"weight_decay": 0.05, "warmup_proportion": 0.2},
    "main_task_retrieval.py": {},
}


def build_parser(program: str, *, defaults: bool = True) -> argparse.ArgumentParser:
    """The command line of one of `PROGRAMS`: every field of `Config` in its group.

    Without `defaults` the result of parsing holds only the flags that are given.
    """
    parser = ArgumentParser(prog=program, allow_abbrev=False)
    groups: dict[str, Any] = {}
    for item in flags_of(Config):
        meta = item.metadata
        if meta["group"] not in groups:
            groups[meta["group"]] = parser.add_argument_group(meta["group"])
        group = groups[meta["group"]]
        text = meta["help"].replace("%", "%%")  # a percent sign has a meaning for argparse
        default = PROGRAMS[program].get(item.name, item.default)
        kind = meta["kind"] or type(default)
        names = (f"--{item.name}", *meta["aliases"])
        shown = "" if default in (None, "") else f" [{default}]"
        value = default if defaults else argparse.SUPPRESS
        if kind is bool:
            # Switches that are on by default or in a script can be switched off: --no-use_temp.
            action = argparse.BooleanOptionalAction if default or meta["group"] == "model" else "store_true"
            group.add_argument(*names, dest=item.name, action=action, default=value, help=text)
            continue
        group.add_argument(
            *names,
            dest=item.name,
            type=kind,
            default=value,
            choices=meta["choices"],
            required=item.name == "output_dir",
            metavar=None if meta["choices"] else item.name.upper(),
            nargs=None if meta["bare"] is None else "?",
            const=meta["bare"],
            help=text + shown,
        )
    return parser


@dataclass(frozen=True)
class Remark:
    """A message on the settings of a run for its log."""

    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        return self.text


def parse_config(argv: Sequence[str] | None, *, program: str) -> tuple[Config, list[Remark]]:
    """Parse a command line. `config_checks.check_config` checks whether the settings work together.

    Returns the configuration and remarks on flags that have no effect. argparse exits with 2 on unknown
    flags.
    """
    parser = build_parser(program)
    values = vars(parser.parse_args(argv))
    for name in ("dataset", "eval_dataset"):
        if values[name] is not None:
            values[name] = dataset_spec(values[name], flag=f"--{name}").name
    values["data_dir"] = values["data_dir"] or os.environ.get("HMMC_DATA", "") or "data"
    remarks = []
    if values["enable_amp"]:
        import torch  # takes seconds; --help works without it

        on_gpu = torch.cuda.is_available()
        if on_gpu and values["precision"] == "auto":  # another --precision takes precedence
            values["precision"] = "fp16"
        remarks = [] if on_gpu else ["--enable_amp has no effect: no GPU here"]
    config = Config(**values)
    if config.mask_duplicates and config.do_pretrain and config.negatives == "queue":
        remarks.append("--mask_duplicates has no effect: a queue does not store which clip a key belongs to")
    if config.overwrite and not config.is_training:
        remarks.append("--overwrite has no effect: only a training overwrites")
    remarks += [
        f"--{item.name} has no effect ({item.metadata['help']})"
        for item in dataclasses.fields(Config)
        if item.metadata["group"] == "no effect" and values[item.name] != item.default
    ]
    return config, [Remark(text) for text in remarks]


def given_flags(argv: Sequence[str] | None, *, program: str) -> frozenset[str]:
    """The names of the settings that a command line gives, whatever their values."""
    return frozenset(vars(build_parser(program, defaults=False).parse_args(argv)))
