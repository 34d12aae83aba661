"""Small tasks of every kind, and some steps of them on a mesh of emulated devices or on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from raserec_jax.batching.feeds import packed_feed, prefix_feed
from raserec_jax.batching.sampling import same_target_index
from raserec_jax.batching.windows import prefix_windows, training_examples
from raserec_jax.mesh import MeshShape, make_mesh, put_tree, use, without_padding
from raserec_jax.models.encoder import SequenceEncoder
from raserec_jax.models.memory_reader import MemoryReader
from raserec_jax.training import loop
from raserec_jax.training.contrast import ContrastSettings, Term, same_target_term
from raserec_jax.training.finetune_objective import MemoryConstants, finetune_task
from raserec_jax.training.objectives import pretrain_task
from raserec_jax.training.reading import reader_shapes
from raserec_jax.training.semantic_contrast import (
    SemanticConstants,
    SemanticSettings,
    semantic_term,
)
from raserec_jax.training.state import create_state
from raserec_jax.training.touched_rows import scale_by_lazy_adam
from raserec_jax.training.unfrozen_objective import Neighbours, slower_encoder, unfrozen_task
from tests.quick_jit import quick_jit
from tests.small_logs import random_split

ITEMS, DIM, MAX_LEN = 37, 8, 8
SPLIT = random_split([9, 5, 12, 7, 8, 6, 10, 4] * 12, num_items=ITEMS)
KEY = jax.random.key(4)


def emulated_mesh(data: int, model: int):
    """A mesh of the first emulated devices; None for one."""
    if data * model == 1:
        return None
    return make_mesh(MeshShape(data, model), jax.devices()[: data * model])


def encoder_of(num_items: int = ITEMS, **fields) -> SequenceEncoder:
    sizes = {"dim": DIM, "num_layers": 1, "num_heads": 2, "inner_dim": 16} | fields
    return SequenceEncoder(num_items, MAX_LEN, **sizes)


def stage_1(
    feed=packed_feed,
    contrast: str = "none",
    next_item: str = "full",
    split=SPLIT,
    targets: int = 60,
    **settings,
):
    """(task, optimizer, parameters) of stage 1."""
    own = {"targets_per_batch": targets, "row_len": 0, "seed": 0, "max_len": MAX_LEN}
    if feed is packed_feed:
        own["long_history"] = "chunked"
    made, terms = feed(split, **own), []
    if contrast == "sra_cl":
        terms = [semantic_part(made)]
    elif contrast != "none":
        examples = training_examples(split)
        how = ContrastSettings(contrast, "dot", 1.0, 0.5, 0.5, 0, True)
        index = same_target_index(examples)
        terms = [same_target_term(how, index, examples.user_ids, made.batch_rows + 3)]
    bias = next_item in ("full", "sampled")
    encoder = encoder_of(split.log.num_items, repeat_bias=bias)
    task = pretrain_task(
        encoder,
        made,
        terms,
        next_item=next_item,
        num_negatives=13,
        include_padding_class=settings.pop("include_padding_class", False),
        chunk_items=settings.pop("chunk_items", 0),
        **settings,
    )
    of_terms = jax.eval_shape(task.init, KEY)
    return task, optimizer_of(task), drawn(shapes_of(encoder) | of_terms)


def semantic_part(feed) -> Term:
    """SRA-CL's term with neighbours drawn at random, encoded in the step, and learned mixtures of items."""
    draw, examples = np.random.default_rng(2), training_examples(SPLIT)
    windows, count = prefix_windows(examples, MAX_LEN), len(examples.lengths)
    constants = SemanticConstants(
        draw.integers(-1, ITEMS + 1, (ITEMS + 1, 3)).astype(np.int32),
        draw.integers(-1, count, (count, 3)).astype(np.int32),
        draw.normal(size=(count, 5)).astype(np.float32),
        examples.user_ids,
        (windows.starts, windows.lengths),
        item_vectors=draw.normal(size=(ITEMS + 1, 5)).astype(np.float32),
    )
    how = SemanticSettings(
        neighbors="encode", views=1, substitution="learned", anchors=17, k=3, across_users=True
    )
    return semantic_term(how, constants, dim=DIM, neighbor_rows=21)


def unfrozen():
    """(task, optimizer, parameters) of stage 2 with the encoder trained along."""
    draw, bank = np.random.default_rng(3), 41
    feed = prefix_feed(SPLIT, max_len=MAX_LEN, targets_per_batch=30, row_len=0, seed=0)
    encoder, reader = encoder_of(repeat_bias=True), MemoryReader(inner_dim=16)
    found = Neighbours(
        draw.normal(size=(bank, DIM)).astype(np.float32),
        draw.integers(1, ITEMS + 1, bank).astype(np.int32),
        draw.integers(-1, bank, (len(feed.arrays.lengths), 5)).astype(np.int32),
    )
    task = unfrozen_task(encoder, reader, feed, found, include_padding_class=False, chunk_items=0)
    shapes = {"reader": reader_shapes(reader, DIM), "encoder": shapes_of(encoder)}
    return task, slower_encoder(optimizer_of(task), 0.5), drawn(shapes)


def shapes_of(encoder) -> dict:
    ids = jnp.ones((1, 2), jnp.int32)
    return jax.eval_shape(encoder.init, jax.random.key(0), ids)["params"]


def drawn(shapes) -> dict:
    """Parameters of these shapes; nothing about them is special, so that no gradient is 0."""
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda one: np.asarray(draw.normal(size=one.shape) / 3, np.float32), shapes)


def stage_2():
    """The same of stage 2: a reader of random memories."""
    draw, examples = np.random.default_rng(1), training_examples(SPLIT)
    count, bank = len(examples.lengths), 41
    windows, reader = prefix_windows(examples, MAX_LEN), MemoryReader(inner_dim=16)
    vectors = [
        draw.normal(size=(rows, DIM)).astype(np.float32) for rows in (ITEMS + 1, count, bank)
    ]
    constants = MemoryConstants(
        {"item_table": vectors[0], "repeat_bias": np.full((), -0.1, np.float32)},
        (SPLIT.log.item_ids, windows.starts, windows.lengths),
        vectors[1],
        examples.target_ids,
        vectors[2],
        draw.integers(1, ITEMS + 1, bank).astype(np.int32),
        draw.integers(-1, bank, (count, 5)).astype(np.int32),
    )
    task = finetune_task(
        reader,
        constants,
        batch_size=30,
        include_padding_class=False,
        chunk_items=0,
        max_len=MAX_LEN,
    )
    return task, optimizer_of(task), drawn(reader_shapes(reader, DIM))


def optimizer_of(task):
    """Plain steps: differences of gradients stay as small as they are, which Adam would blow up."""
    if task.touched is None:
        return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5, momentum=0.9))
    return optax.chain(scale_by_lazy_adam(eps=1.0), optax.scale_by_learning_rate(0.5))


def compiled_steps(task, optimizer):
    """The loop's steps, compiled quickly."""
    run_steps = loop.make_run_steps(task, optimizer).__wrapped__
    return quick_jit(run_steps, static_argnames="most", donate_argnums=0)


def steps_on(mesh, task, optimizer, params, count: int = 2, num_items: int = ITEMS):
    """(losses, state on the host as on one device, XLA's program) of the first steps of an epoch."""
    state, constants = create_state(params, optimizer, mesh=mesh), task.constants
    if mesh is not None:
        constants = put_tree(mesh, constants)
    order = task.order(task.constants, jax.random.fold_in(KEY, 1))
    given = state, constants, np.asarray(order), 0, count, KEY
    with use(mesh):
        run = compiled_steps(task, optimizer).lower(*given, most=count).compile()
        state, losses, _ = run(*given)
    host = without_padding(jax.tree.map(np.asarray, state), num_items)
    return np.asarray(losses), host, run.as_text()
