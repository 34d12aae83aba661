#!/usr/bin/env bash
# Lint, format and all tests, in an environment of their own:
#
#   bash launch/test.sh [arguments of pytest]
#
# RASEREC_PYTHON names the Python to use, if not the first found. Tests on real data sets look for
# them in RASEREC_DATA_DIR and skip without it.
set -euo pipefail

CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

make_environment .venv-test
install_into .venv-test '.[dev]'

python=.venv-test/bin/python
"$python" -m ruff check .
"$python" -m ruff format --check .
# Two processes: most of the time goes into XLA's compiler, which hardly uses a second core. The tests
# of a file stay in one process, so that what one has compiled serves the next.
"$python" -m pytest -n 2 --dist loadfile "$@"

# Sentence encoders run on PyTorch, which is large, and Beam wants older libraries: environments of their own, over the first.
if [[ $# -gt 0 ]]; then
  exit
fi
make_environment .venv-test-semantic
stand_on .venv-test-semantic .venv-test
if install_semantic .venv-test-semantic; then
  .venv-test-semantic/bin/python -m pytest tests/semantic/test_sentence_encoder.py tests/semantic/test_tuned_encoder.py
else
  echo "note: the tests of sentence encoders were skipped." >&2
fi
make_environment .venv-test-beam
stand_on .venv-test-beam .venv-test
if install_beam .venv-test-beam; then
  .venv-test-beam/bin/python -m pytest tests/data/beam
else
  echo "note: the tests of Beam were skipped." >&2
fi
