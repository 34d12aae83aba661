"""RaSeRec with its authors' settings: --config=configs/raserec_published.py[:DATASET].

    python launch/train.py --config=configs/raserec_published.py:amazon_beauty --workdir=runs/beauty_published

DATASET is a known name and brings its settings; other data, with generic ones: --config.data.interactions=FILE.

Amazon Beauty, test, HR@10 / NDCG@10, mean and deviation of seeds 0 to 2, bank train+valid (89 to 115 minutes of one
core of a shared two-core CPU machine, most of it stage 1, without the control):

    unfiltered   stage 1 .0830 ± .0028 / .0434 ± .0009, RaSeRec .0864 ± .0015 / .0466 ± .0006
                 (published: .0834 / .0431, .0863 / .0462)
    filtered     stage 1 .0916 ± .0033 / .0544 ± .0022, RaSeRec .0941 ± .0019 / .0566 ± .0016

The authors tell their settings for Beauty only. What is known of the sets changes these:

    amazon_sports       nothing: the settings of Beauty (published for Sports: .0497 / .0264). No figures of ours yet.
    amazon_clothing     nothing: the settings of Beauty. No figures of ours yet.
    amazon_video_games  all 31,013 users are kept, not the 5-core. Not in the paper. No figures yet.
    wikipedia_edits     users with two edits or more, 100 items, dropout .25, exact search. Not in the paper. There is
                        no repeat bias here, and 83% of the test targets are repeats: compare with configs/raserec.py
                        unfiltered. No figures yet.
    ml_latest_small     200 items, dropout .25, exact search; so movielens_100k. Not in the paper. No figures yet.
"""

from raserec_jax import presets


def get_config(dataset: str = ""):
    """The tree of `presets.raserec_published` for a data set."""
    return presets.raserec_published(dataset)
