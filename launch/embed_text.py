"""From item text to what SRA-CL trains with: descriptions, vectors, neighbours of items and histories, a report.

python launch/embed_text.py --config=configs/text.py:movielens_100k --workdir=runs/text
python launch/embed_text.py --config=configs/text.py:amazon_beauty --workdir=runs/text --config.semantic.encoder=minilm
python launch/embed_text.py --config=configs/text.py --config.data.interactions=log.tsv.gz \\
    --config.data.items=items.tsv --workdir=runs/text
python launch/embed_text.py --config=configs/text.py:movielens_100k --workdir=runs/llm --dry_run \\
    --config.semantic.descriptions=llm --config.semantic.llm.base_url=https://api.deepseek.com/v1 \\
    --config.semantic.llm.model=deepseek-chat --config.semantic.llm.key_variable=DEEPSEEK_API_KEY

Everything goes to WORKDIR/semantic. Killed or interrupted, the same command goes on where it was; what is there is not
made again, and no answer that was paid for is asked for twice.
"""

import os

from absl import flags

from raserec_jax import cli
from raserec_jax.errors import ConfigError

cli.config_flag()
_WORKDIR = cli.workdir_flag()
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Print what would be done, with calls, tokens and cost; send and write nothing.",
)


def main(argv: list[str]) -> None:
    """Embeds."""
    del argv
    config = cli.load_config()
    if "semantic" not in config:
        raise ConfigError(
            "--config has no part called semantic; use configs/text.py, or one for SRA-CL"
        )
    from raserec_jax.data.splits import split_log
    from raserec_jax.semantic import pipeline
    from raserec_jax.training.pipeline import read_data
    from raserec_jax.training.signals import interruptible

    folder = config.semantic.folder or os.path.join(_WORKDIR.value, "semantic")
    with interruptible():
        log, text = read_data(config)
        split = split_log(log, config.data)
        if _DRY_RUN.value:
            print(pipeline.dry_run(split, text, config.semantic, folder))
            return
        print(pipeline.summary(pipeline.embed_text(split, text, config.semantic, folder)))


if __name__ == "__main__":
    cli.run(main)
