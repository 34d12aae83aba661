"""Runs all stages of a configuration, each resumable: data, pre-training, memory, fine-tuning, test, report.

python launch/train.py --config=configs/raserec.py:movielens_100k --workdir=runs/movielens_100k
python launch/train.py --config=configs/raserec.py --config.data.interactions=log.tsv --workdir=runs/mine
python launch/train.py --config=configs/raserec.py:movielens_100k --workdir=runs/three --seeds=0,1,2
python launch/train.py --config=configs/raserec.py:movielens_100k --workdir=runs/k5 --pretrained=runs/movielens_100k \\
    --config.memory.top_k=5

On several hosts the same command is given on each, with the address of the first and the number of each; launch/cluster
has templates for TPU slices, SLURM and Kubernetes:

python launch/train.py --config=configs/raserec.py:movielens_100k --workdir=/shared/runs/movielens_100k \\
    --coordinator=10.0.0.1:8476 --num_processes=2 --process_id=0
"""

from absl import flags

from raserec_jax import cli
from raserec_jax.errors import ConfigError

cli.config_flag()
_WORKDIR = cli.workdir_flag()
cli.mesh_flag()
cli.process_flags()
_STAGES = flags.DEFINE_list("stages", None, "Stages to run, comma-separated; default all.")
_SEEDS = flags.DEFINE_list(
    "seeds",
    None,
    "Seeds, comma-separated: a run each in WORKDIR/seed_N, then mean and standard deviation; instead of --config.seed.",
)
_PRETRAINED = flags.DEFINE_string(
    "pretrained",
    None,
    "Workdir of a run whose stage 1 is taken over; its memory too where it would be the same.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say what a run would take on each device and whether it fits; train nothing."
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "FIRST:LAST, steps of each stage that are traced into WORKDIR/profile."
)


def main(argv: list[str]) -> None:
    """Trains."""
    del argv
    config = cli.load_config()
    from raserec_jax.training import pipeline

    if _DRY_RUN.value:
        print(pipeline.plan(config))
        return
    stages = _STAGES.value or pipeline.STAGES
    if _SEEDS.value is None:
        pipeline.train(
            config,
            workdir=_WORKDIR.value,
            stages=stages,
            pretrained=_PRETRAINED.value,
            profile_steps=cli.step_range("profile_steps", _PROFILE_STEPS.value),
        )
        return
    for flag in (_PRETRAINED, _PROFILE_STEPS):
        if flag.value is not None:
            raise ConfigError(f"--{flag.name} goes with one seed; leave out --seeds")
    from raserec_jax.training.seeds import format_seeds, train_seeds

    seeds = cli.integers("seeds", _SEEDS.value)
    print(format_seeds(train_seeds(config, _WORKDIR.value, seeds, stages)))


if __name__ == "__main__":
    cli.run(main)
