"""Runs all stages of a configuration, each resumable: data, pre-training, memory, fine-tuning, test, report.

python launch/train.py --config=configs/raserec.py:movielens_100k --workdir=runs/movielens_100k
python launch/train.py --config=configs/raserec.py --config.data.interactions=log.tsv --workdir=runs/mine
"""

from absl import flags

from raserec_jax import cli

cli.config_flag()
_WORKDIR = cli.workdir_flag()
_STAGES = flags.DEFINE_list("stages", None, "Stages to run, comma-separated; default all.")


def main(argv: list[str]) -> None:
    """Trains."""
    del argv
    config = cli.load_config()
    from raserec_jax.training import pipeline

    pipeline.train(config, workdir=_WORKDIR.value, stages=_STAGES.value or pipeline.STAGES)


if __name__ == "__main__":
    cli.run(main)
