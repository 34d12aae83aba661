#!/usr/bin/env bash
# From a fresh checkout to a trained recommender with its report:
#
#   bash launch/quickstart.sh [flags of launch/train.py]
#
# Makes .venv, installs the package, and runs all stages of configs/raserec.py on MovieLens-100K.
# What is there already is used again. RASEREC_PYTHON names the Python to use, if not the first found.
set -euo pipefail

CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

make_environment .venv
install_into .venv .

exec .venv/bin/python launch/train.py \
  --config=configs/raserec.py:movielens_100k --workdir=runs/movielens_100k "$@"
