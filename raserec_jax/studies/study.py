"""What a study is: a question, and variants of one configuration that answer it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from raserec_jax.errors import ConfigError

FULL = ("semantic", "pretrain", "memory", "finetune", "mixing", "control", "evaluate", "report")
STAGE_1 = ("semantic", "pretrain", "evaluate", "report")
MEMORY = ("semantic", "pretrain", "memory", "finetune", "evaluate", "report")


class Variant(NamedTuple):
    """One variant of the configuration.

    name: of its folder.  label: what a person reads.
    changes: dotted name in the configuration -> value; {} is the configuration as given.
    value: its place on the axis of a study that varies one number; None where there is none.
    model: whose test is told of it; "" = the study's.
    run: folder of its run, where several variants tell of one run by the same changes; "" = its name.
    against: name of the earlier variant that it is compared with; "" = the study's first.
    """

    name: str
    label: str
    changes: Mapping[str, Any]
    value: float | None = None
    model: str = ""
    run: str = ""
    against: str = ""


class Study(NamedTuple):
    """A question and its variants.

    title, question: for the report.
    variants: the first is the reference that the others are compared with, unless they name another.
    stages: of `train` that a variant needs.
    model: whose test is compared: "pretrain", "finetune", "mixing" or "combined".
    metric: the one that is drawn and compared, such as "NDCG@20".
    axis: name of what is varied, where `Variant.value` is given; else "".
    one_encoder: no variant changes stage 1, so it is trained once and taken over.
    """

    title: str
    question: str
    variants: tuple[Variant, ...]
    stages: tuple[str, ...]
    model: str
    metric: str
    axis: str = ""
    one_encoder: bool = False

    def only(self, names: list[str]) -> "Study":
        """The study with the variants of these names and what they are compared with.

        Raises:
          ConfigError: a name is none of the study's.
        """
        known = {variant.name for variant in self.variants}
        unknown = sorted(set(names) - known)
        if unknown:
            raise ConfigError(
                f"--variants has {', '.join(unknown)}; use some of {', '.join(sorted(known))}"
            )
        wanted = {self.variants[0].name, *names}
        for one in reversed(self.variants):  # what it is compared with comes earlier
            if one.name in wanted and one.against:
                wanted.add(one.against)
        return self._replace(variants=tuple(one for one in self.variants if one.name in wanted))


def sweep(field: str, values: tuple, default: Any, label: str = "") -> tuple[Variant, ...]:
    """A variant per value of one field; the default, the reference, comes first."""
    ordered = (default, *(value for value in values if value != default))
    word = label or field.split(".")[-1]
    return tuple(
        Variant(
            f"{field.split('.')[-1]}_{value:g}",
            f"{word} {value:g}",
            {field: value},
            float(value),
        )
        for value in ordered
    )
