"""Beam's graphs of the steps. Each is run to its end; the next reads what it wrote."""

import pathlib

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from raserec_jax.data.beam import steps

_SAMPLED = 2**14  # users, from which the bounds of parts are taken
HISTORIES, TOTALS, ITEMS, USERS, FACTS = "histories", "totals", "items", "users", "facts"
SOURCE = "source-"  # before the names of what is told of the source


def options_of(arguments: list[str]) -> PipelineOptions:
    """Beam's options, as on its command lines."""
    return PipelineOptions(arguments)


class _Read(beam.DoFn):
    def __init__(self, reading: steps.Reading):
        self._reading = reading

    def process(self, file: tuple[int, str]):
        """Rows, and beside them the facts."""
        for found in steps.read_file(*file, self._reading):
            is_facts = isinstance(found, steps.Facts)
            yield beam.pvalue.TaggedOutput(FACTS, found) if is_facts else found


def read(
    options: PipelineOptions,
    paths: list[str],
    reading: steps.Reading,
    duplicates: str,
    at_least: int,
    at_most: int,
    folder: pathlib.Path,
) -> None:
    """Files -> histories within the limits of length, and what there is in the source."""
    with beam.Pipeline(options=options) as pipeline:
        read_files = beam.ParDo(_Read(reading)).with_outputs(FACTS, main="rows")
        files = pipeline | beam.Create(list(enumerate(paths))) | beam.Reshuffle()
        found = files | "read" >> read_files
        _write(found[FACTS], folder / FACTS)
        histories = found["rows"] | beam.GroupByKey() | beam.MapTuple(steps.history_of)
        _told(histories, folder, SOURCE)
        kept = histories | beam.Map(steps.without_duplicates, duplicates)
        _write_totals(kept, folder / f"unlimited-{TOTALS}", "unlimited")
        within = kept | beam.Filter(
            lambda history: at_least <= len(history[1]) and len(history[1]) <= (at_most or 2**62)
        )
        _keep(within, folder)


def core_pass(
    options: PipelineOptions,
    before: pathlib.Path,
    per_user: int,
    per_item: int,
    folder: pathlib.Path,
) -> None:
    """Histories of one folder -> those of another, without what has too few interactions in the first."""
    with beam.Pipeline(options=options) as pipeline:
        counts = pipeline | "items before" >> _lines(before / ITEMS)
        rare = counts | beam.Filter(lambda item: item[1] < per_item)
        histories = pipeline | "histories before" >> _lines(before / HISTORIES)
        rare = beam.pvalue.AsDict(rare)
        _keep(histories | "drop" >> beam.FlatMap(steps.core_of, rare, per_user), folder)


class Examples(beam.PTransform):
    """The data set's (number of the user, example).

    Args:
      folder: of the histories.
      ids: lines of an item and its id.
      bounds: first user of each part but the first; a worker holds one part in memory.
      facts: of the source.
    """

    def __init__(self, folder: pathlib.Path, ids: pathlib.Path, bounds: list, facts: steps.Facts):
        super().__init__()
        self._folder, self._ids, self._bounds, self._facts = folder, ids, bounds, facts

    def expand(self, pipeline):
        """As Beam calls it."""
        bounds = self._bounds
        parted = (
            pipeline
            | "histories" >> _lines(self._folder / HISTORIES)
            | "part" >> beam.Map(lambda history: (steps.part_of(history[0], bounds), history))
        )
        sizes = parted | beam.Keys() | beam.combiners.Count.PerElement()
        ids = pipeline | "ids" >> _lines(self._ids)
        return (
            parted
            | beam.GroupByKey()
            | beam.FlatMap(
                lambda part, *sides, **kinds: steps.numbered(*part, *sides, **kinds),
                beam.pvalue.AsDict(sizes),
                beam.pvalue.AsDict(ids),
                integer_users=self._facts.integer_users,
                time_kind=self._facts.timestamp,
            )
        )


def _keep(histories, folder: pathlib.Path) -> None:
    _write(histories, folder / HISTORIES)
    users = histories | beam.Map(lambda history: history[0])
    sample = users | beam.combiners.Sample.FixedSizeGlobally(_SAMPLED)
    _write(sample, folder / USERS)
    _told(histories, folder, "")


def _told(histories, folder: pathlib.Path, prefix: str) -> None:
    _write_totals(histories, folder / f"{prefix}{TOTALS}", prefix)
    items = histories | f"{prefix}taken" >> beam.FlatMap(lambda history: history[1])
    counts = items | f"{prefix}count" >> beam.combiners.Count.PerElement()
    _write(counts, folder / f"{prefix}{ITEMS}")


def _write_totals(histories, path: pathlib.Path, prefix: str) -> None:
    each = histories | f"{prefix}each" >> beam.Map(steps.totals_of)
    _write(each | f"{prefix}sum" >> beam.CombineGlobally(steps.merged_totals), path)


def _write(values, path: pathlib.Path) -> None:
    lines = values | f"{path.name} lines" >> beam.Map(steps.to_line)
    _ = lines | f"{path.name} write" >> beam.io.WriteToText(str(path))


def _lines(path: pathlib.Path) -> beam.PTransform:
    return beam.io.ReadFromText(f"{path}-?????-of-?????") | beam.Map(steps.of_line)
