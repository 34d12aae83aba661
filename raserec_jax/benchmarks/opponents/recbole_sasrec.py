"""RecBole's SASRec, trained by its own Trainer, timed by epoch; run by an interpreter that has RecBole.

python recbole_sasrec.py --folder=FOLDER --examples=0 --epochs=2 --batch=2048 --dim=64 --inner_dim=256 --layers=2 \\
    --heads=2 --max_len=50 --dropout=0.5

FOLDER holds bench/bench.inter, an atomic file (user_id:token, item_id:token, timestamp:float). RecBole splits it
itself, leave-one-out, and makes one example of each prefix. With --examples it trains on so many of them, drawn, over
the whole catalogue. The last line of the output is JSON: seconds of each epoch, examples in it and in a whole one,
versions.

RecBole 1.2.1 wants NumPy below 2 and, to train SASRec, few of its other pins:

    python3.11 -m venv recbole
    recbole/bin/python -m pip install 'numpy<2' 'scipy<1.14' 'pandas<2.3' 'torch==2.13.0+cpu' colorlog colorama \\
        pyyaml tqdm tabulate tensorboard thop texttable psutil scikit-learn
    recbole/bin/python -m pip install --no-deps recbole==1.2.1
"""

import json
import sys
import time

from arguments import read_arguments  # in this folder, which a script finds first


def main() -> None:
    """Trains, and prints what it took."""
    given = read_arguments()
    sys.argv[1:] = []  # RecBole reads the command line too

    import numpy
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.data.utils import get_dataloader
    from recbole.model.sequential_recommender.sasrec import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    config = Config(
        model="SASRec",
        dataset="bench",
        config_dict={
            "data_path": given.folder,
            "checkpoint_dir": f"{given.folder}/saved",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "MAX_ITEM_LIST_LENGTH": given.max_len,
            "hidden_size": given.dim,
            "inner_size": given.inner_dim,
            "n_layers": given.layers,
            "n_heads": given.heads,
            "hidden_dropout_prob": given.dropout,
            "attn_dropout_prob": given.dropout,
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "train_batch_size": given.batch,
            "epochs": given.epochs,
            "learning_rate": 1e-3,
            "use_gpu": torch.cuda.is_available(),
            "show_progress": False,
            "state": "ERROR",
            "seed": 0,
            "reproducibility": False,
        },
    )
    init_seed(0, False)
    training, *_ = create_dataset(config).build()
    whole = len(training.inter_feat)
    if given.examples and given.examples < whole:
        chosen = numpy.random.default_rng(0).choice(whole, given.examples, replace=False)
        training.inter_feat = training.inter_feat[torch.as_tensor(numpy.sort(chosen))]
    loader = get_dataloader(config, "train")(config, training, None, shuffle=True)
    model = SASRec(config, training).to(config["device"])
    trainer = Trainer(config, model)
    seconds, losses = [], []
    for epoch in range(given.epochs):
        began = time.perf_counter()
        losses.append(float(trainer._train_epoch(loader, epoch, show_progress=False)))
        seconds.append(time.perf_counter() - began)
    told = {
        "seconds": seconds,
        "losses": losses,
        "examples": len(training.inter_feat),
        "whole": whole,
        "items": training.item_num - 1,
        "versions": {"recbole": recbole.__version__, "torch": torch.__version__},
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
