"""RecTools' SASRec, trained by its own fit, timed by epoch; run by an interpreter that has RecTools.

python rectools_sasrec.py --folder=FOLDER --examples=0 --epochs=2 --batch=128 --dim=64 --inner_dim=256 --layers=2 \\
    --heads=2 --max_len=50 --dropout=0.5

FOLDER holds train.tsv (user, item, place), the training part alone. RecTools makes one row of each user's history, all
targets at once; --batch counts rows. With --examples it trains on so many targets, about, by fewer batches over the
whole catalogue. Its feed-forward layer is as wide as it makes it; --inner_dim is not used.
The last line of the output is JSON: seconds of each epoch, targets in it and in a whole one, versions.

    python3.11 -m venv rectools
    rectools/bin/python -m pip install 'torch==2.13.0+cpu' 'rectools[torch]'
"""

import json
import time

from arguments import read_arguments  # in this folder, which a script finds first


def main() -> None:
    """Trains, and prints what it took."""
    given = read_arguments()

    import pandas
    import pytorch_lightning
    import rectools
    import torch
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    frame = pandas.read_csv(f"{given.folder}/train.tsv", sep="\t")
    frame.columns = [Columns.User, Columns.Item, "place"]
    frame[Columns.Datetime] = pandas.Timestamp("2000-01-01") + pandas.to_timedelta(
        frame.pop("place"), unit="s"
    )
    frame[Columns.Weight] = 1.0
    lengths = frame.groupby(Columns.User).size()
    # Rows of max_len + 1 items at most have max_len targets; users with a single item have none.
    whole = int((lengths.clip(upper=given.max_len + 1) - 1).sum())
    users = int((lengths >= 2).sum())
    batches = -(-users // given.batch)
    some = batches
    if given.examples and given.examples < whole:
        some = max(1, round(batches * given.examples / whole))
    seconds = []

    class Clock(pytorch_lightning.Callback):
        def on_train_epoch_start(self, trainer, module):
            self.began = time.perf_counter()

        def on_train_epoch_end(self, trainer, module):
            seconds.append(time.perf_counter() - self.began)

    def make_trainer():
        return pytorch_lightning.Trainer(
            max_epochs=given.epochs,
            limit_train_batches=some,
            callbacks=[Clock()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="auto",
            devices=1,
        )

    model = SASRecModel(
        n_blocks=given.layers,
        n_heads=given.heads,
        n_factors=given.dim,
        session_max_len=given.max_len,
        dropout_rate=given.dropout,
        loss="softmax",
        batch_size=given.batch,
        epochs=given.epochs,
        lr=1e-3,
        train_min_user_interactions=2,
        get_trainer_func=make_trainer,
    )
    model.fit(Dataset.construct(frame))
    told = {
        "seconds": seconds,
        "examples": round(whole * some / batches),
        "whole": whole,
        "items": int(frame[Columns.Item].nunique()),
        "versions": {"rectools": rectools.__version__, "torch": torch.__version__},
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
