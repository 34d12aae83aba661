"""RaSeRec as we would train it: --config=configs/raserec.py[:DATASET].

    python launch/train.py --config=configs/raserec.py:amazon_beauty --workdir=runs/beauty

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE.

Test, unfiltered HR@10 / NDCG@10 (filtered about the same: the repeat bias), RaSeRec with the bank train+valid:

    Amazon Beauty    mean of seeds 0 to 2: stage 1 .0905 / .0558, control .0897 / .0555, RaSeRec .0924 / .0566, with
                     mixing .0951 / .0582, in 24 to 39 minutes of one core of a shared two-core CPU machine
    Amazon Sports    mean of seeds 0 to 2: stage 1 .0502 / .0300, control .0495 / .0294, RaSeRec .0520 / .0306,
                     in 34 to 49 minutes of one core
    Video Games      seed 0: stage 1 .1084 / .0603, control .1092 / .0610, RaSeRec .1121 / .0621, with mixing
                     .1140 / .0641, in 29 minutes of one core
    Wikipedia edits  seed 0: stage 1 .8583 / .8013, control .8570 / .7995, RaSeRec .8585 / .7975, in 6 minutes of
                     one core; a Markov chain has .8125 / .7799
    MovieLens small  (ml_latest_small) seed 0: stage 1 .1279 / .0713, control .1180 / .0655, RaSeRec .1230 / .0644,
                     with mixing .1344 / .0714, in 8 minutes of one core
    MovieLens-100K   mean of seeds 0 to 2: stage 1 .2082 / .1108, control .2096 / .1089, RaSeRec .2149 / .1156,
                     in 4 minutes of one core

What a set is and what it changes of the generic settings (5-core, 50 items, dropout .5, 256 targets a step, at most
20 epochs and 12 of stage 2, ScaNN from 20,000 histories on where there is no accelerator, own_earlier):

    amazon_beauty       22,363 users, 12,101 items, 198,502 interactions; nothing changes. Times are days.
    amazon_sports       35,598 users, 18,357 items, 296,337 interactions; nothing changes. Times are days; text
                        without titles.
    amazon_clothing     39,387 users, 23,033 items, 278,677 interactions; nothing changes. No times: neither
                        global_time nor eligibility=before. No figures yet.
    amazon_video_games  31,013 users, 23,715 items, 287,107 interactions, all kept, as its authors cut it: the
                        5-core has 24,303 users and 10,672 items. 112 users with one or two interactions only train;
                        1,167 of 30,901 test targets do not occur in training. No times.
    wikipedia_edits     5,173 users, 1,000 pages, 154,420 edits: users with one edit give neither target nor history
                        (min_interactions=2). 100 items, dropout .25, exact search. 90% of the edits are of a page
                        that the user edited before, as are 83% of the test targets, and the repeat bias learns it.
                        The filter removes the other pages of the history, never the target: filtered figures of a
                        repeat are easy, so read the unfiltered ones, and filtered ones only against each other. No
                        times.
    ml_latest_small     610 users, 3,650 films, 90,274 ratings (5-core; rated low counts too: data.min_rating leaves
                        it out). As all of MovieLens: 200 items, dropout .25, 1,024 targets a step, at most 40
                        epochs, exact search, a smaller grid of mixtures. Times are seconds.
    movielens_100k      943 users, 1,349 films, 99,287 ratings (5-core), comes with the installation. As
                        ml_latest_small, cut to 20 epochs and 2 of stage 2: it is the quickstart.
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.raserec` for a data set."""
    return presets.raserec(dataset)
