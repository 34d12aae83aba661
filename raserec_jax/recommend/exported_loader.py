"""Recommends with an exported recommender: this file and its folder are all that is needed, beside
`pip install jax numpy flatbuffers` (jax.export reads its files with flatbuffers).

    from load import load
    recommender = load("the folder of this file")
    for answer in recommender.recommend([["B00A", "B00B"]], k=5):
        print(answer.items, answer.scores)

or, from a shell: python load.py B00A B00B

The folder holds a program that is run: load only what you trust. The digests show damage, not who made it.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import sys
from typing import NamedTuple

# jaxlib 0.10.2 computes some programs wrongly on a CPU (jax-ml/jax#39103) without this flag, which is read once, when
# jax starts; other versions may not know it.
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_AFFECTED = importlib.metadata.version("jaxlib") == "0.10.2"
if _AFFECTED and _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=".strip()

import jax  # noqa: E402 - after the flag
import jax.export  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

FORMAT = "raserec_jax exported recommender 1"
LARGEST_BATCH = 128
_AT_THE_END = np.iinfo(np.int32).max


class Answer(NamedTuple):
    """Recommendations for one history, best first.

    items: original ids.  scores: higher is better.  by_popularity: nothing of the history was known, so what was
    taken most of late stands here.  unknown_items: how many items of the history were skipped.
    """

    items: list
    scores: list
    by_popularity: bool
    unknown_items: int


def load(folder) -> "ExportedRecommender":
    """Reads an export, every file checked against its digest.

    Raises:
      ValueError: a file is missing, damaged or of another format; or jax computes wrongly on this machine.
    """
    _check_arithmetic()
    return ExportedRecommender(pathlib.Path(folder))


class ExportedRecommender:
    """Made by `load`. Calls may come from several threads."""

    def __init__(self, folder: pathlib.Path):
        self.manifest = manifest = _manifest(folder)
        files = {name: _checked(folder, name, entry) for name, entry in manifest["files"].items()}
        self._items = json.loads(files["items.json"])
        self._places = {str(item): place for place, item in enumerate(self._items, start=1)}
        users = json.loads(files["users.json"]) if "users.json" in files else []
        self._users = {str(user): place for place, user in enumerate(users) if user is not None}
        own = {name: _array(files, name) for name in ("popular_ids", "popular_counts")}
        self._popular = list(
            zip(own["popular_ids"].tolist(), own["popular_counts"].tolist(), strict=True)
        )
        self._times = _array(files, "times") if "times.npy" in files else None
        self._arrays = {
            name: jnp.asarray(_array(files, name)).view(jnp.dtype(dtype))
            for name, dtype in manifest["arrays"].items()
        }
        self._call = jax.jit(jax.export.deserialize(bytearray(files["program.bin"])).call)

    def recommend(
        self, histories, k=None, *, exclude_seen=True, users=None, as_of=None, allow=None, deny=None
    ) -> list[Answer]:
        """The best items for each history.

        Args:
          histories: lists of original item ids, oldest first.
          k: how many, at most as many as were exported (the default).
          exclude_seen: leave out the items of the history.
          users: original user id per history, if the export holds the users.
          as_of: time from which on no memory is used, if the export's rule is "before".
          allow, deny: ids of the only items to recommend; of items not to recommend.

        Raises:
          ValueError: k is too large, a history or another list is a single value, not one user per history or the
            export holds none, or `as_of` is no number or the rule has no times.
        """
        most = self.manifest["k"]
        k = most if k is None else k
        if not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
            raise ValueError(f"k={k}, but the export gives at most {most}; give 1..{most}")
        histories = list(histories)
        lists = {f"histories[{row}]": history for row, history in enumerate(histories)}
        for name, given in {**lists, "users": users, "allow": allow, "deny": deny}.items():
            if isinstance(given, (str, bytes, int)):
                raise ValueError(f"{name} is {given!r:.80}, a single value; give a list of ids")
        users = None if users is None else list(users)  # a column of pandas finds by its labels
        if users is not None and len(users) != len(histories):
            raise ValueError(f"{len(users)} users for {len(histories)} histories; give one each")
        if users is not None and "users.json" not in self.manifest["files"]:
            raise ValueError(
                "users are given, but the export holds none; leave them out or export with_users"
            )
        if as_of is not None and self._times is None:
            raise ValueError(f"as_of={as_of}, but the export's rule has no times; leave it out")
        if not (as_of is None or isinstance(as_of, (int, float, np.number)) and as_of == as_of):
            raise ValueError(f"as_of={as_of!r:.80} is no time; give a number in the log's unit")
        time = _AT_THE_END if as_of is None else int(np.searchsorted(self._times, as_of))
        allowed = self._allowed(allow, deny)
        known = [[self._places.get(str(item), 0) for item in history] for history in histories]
        known = [[place for place in history if place] for history in known]
        found: dict[int, tuple[list, list]] = {}
        rows = [row for row, history in enumerate(known) if history]
        for start in range(0, len(rows), LARGEST_BATCH):
            part = rows[start : start + LARGEST_BATCH]
            asking = None if users is None else [users[row] for row in part]
            ids, scores = self._ask(
                [known[row] for row in part], asking, time, exclude_seen, allowed
            )
            for place, row in enumerate(part):
                kept = ids[place][:k][ids[place][:k] > 0]
                found[row] = kept.tolist(), scores[place][: len(kept)].tolist()
        answers = []
        for row, history in enumerate(histories):
            by_popularity = row not in found
            if by_popularity:
                best = [(item, count) for item, count in self._popular if allowed[item]][:k]
                found[row] = [item for item, _ in best], [count for _, count in best]
            places, scores = found[row]
            items = [self._items[place - 1] for place in places]
            answers.append(Answer(items, scores, by_popularity, len(history) - len(known[row])))
        return answers

    def _ask(self, histories, users, time, exclude_seen, allowed):
        """Pads to a few sizes, as every new one is compiled."""
        size = _power_of_two(len(histories), 8)
        width = _power_of_two(max(map(len, histories)), self.manifest["max_len"])
        padded, lengths = np.zeros((size, width), np.int32), np.zeros(size, np.int32)
        user_ids = np.full(size, -1, np.int32)
        for row, history in enumerate(histories):
            padded[row, : len(history)] = history
            lengths[row] = len(history)
            if users is not None:
                user_ids[row] = self._users.get(str(users[row]), -1)
        times = np.full(size, time, np.int32)
        asked = (padded, lengths, user_ids, times, np.bool_(exclude_seen), allowed)
        return tuple(map(np.asarray, self._call(self._arrays, *asked)))

    def _allowed(self, allow, deny):
        allowed = np.full(len(self._items) + 1, allow is None)
        for ids, value in ((allow, True), (deny, False)):
            places = [self._places.get(str(item), 0) for item in (() if ids is None else ids)]
            allowed[places] = value
        allowed[0] = False
        return allowed


def _power_of_two(count: int, least: int) -> int:
    return 1 << (max(count, least) - 1).bit_length()


def _manifest(folder: pathlib.Path) -> dict:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        known = manifest["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{path}: not the manifest of a {FORMAT}; export the recommender again")
    return manifest


def _checked(folder: pathlib.Path, name: str, digest: str) -> bytes:
    if name != os.path.basename(name):
        raise ValueError(
            f"{folder}/manifest.json: {name!r} is not the name of a file in the folder"
        )
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{folder / name}: cannot be read ({error.strerror}); export again"
        ) from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"{folder / name}: damaged, its SHA-256 is another; copy or export it again"
        )
    return content


def _array(files: dict, name: str) -> np.ndarray:
    """From a .npy file whose digest holds; without pickles."""
    return np.load(io.BytesIO(files[f"{name}.npy"]), allow_pickle=False)


def _check_arithmetic() -> None:
    """Refuses a jax that came up without the flag above: a program that shows the fault is computed in both ways."""
    if not _AFFECTED or jax.default_backend() != "cpu":
        return
    draw = np.random.default_rng(0)
    matrix, rows = draw.normal(size=(3, 3)), draw.normal(size=(40_000, 3))
    matrix, rows = matrix.astype(np.float32), rows.astype(np.float32)
    found = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    if not np.allclose(found, ((rows @ matrix.T) ** 2).sum(axis=1), rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"jaxlib 0.10.2 was started without XLA_FLAGS={_FLAG}= and computes wrongly; import this file before jax "
            "is first used, or set the flag"
        )


if __name__ == "__main__":
    (answer,) = load(pathlib.Path(__file__).parent).recommend([sys.argv[1:]])
    for item, score in zip(answer.items, answer.scores, strict=True):
        print(f"{item}\t{score:.6g}")
