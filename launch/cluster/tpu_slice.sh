#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU slice. Run it where gcloud is set up; the slice exists, and every host has this
# checkout in ~/raserec_jax with its environment in .venv (`pip install '.[all]' 'jax[tpu]'`). Each host is a process;
# what they are is asked of the TPU.
set -euo pipefail

# ---- change these lines ----
slice=my-slice
zone=us-east5-b
workdir=/mnt/shared/runs/mine # one folder, seen by all hosts
config=configs/raserec.py
interactions=/mnt/shared/interactions.tsv.gz
mesh=data:-1,model:1
# ----------------------------

train="cd raserec_jax && .venv/bin/python launch/train.py --coordinator=auto --config=$config \
--config.data.interactions=$interactions --workdir=$workdir --mesh=$mesh"
# 4: interrupted, or a host was lost; the next call goes on from the last checkpoint. A slice that was taken away must be
# made again first.
while true; do
  code=0
  gcloud compute tpus tpu-vm ssh "$slice" --zone="$zone" --worker=all --command="$train" || code=$?
  [[ $code == 4 ]] || exit "$code"
done
