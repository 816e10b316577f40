import pytest

from diptych.config.layout import Layout
from diptych.planning import graph
from diptych.planning import plan as plans
from diptych.planning.cost import H5_DATASET
from diptych.planning.machines import named
from diptych.planning.sizes import Sizes, _named
from diptych.planning.stages.table import COSTS
from diptych.runtime.errors import DiptychError
from planned_studies import TEXT, shipped, small

MB = 1e6
# The default study as it ran once on two cores (one thread a job): bytes on disk of each rule's files, and the peak
# resident memory of its largest job (results/benchmarks/*/*.process.json), MB. Bytes of what a rule keeps, 0 where a
# wheel's text, whose size the config does not tell, is most of it.
MEASURED = {
    "fetch_model": (634.49, 1239), "derive_model": (1083.50, 1805), "fetch_corpus": (0, 179),
    "prepare_tokens": (2.16, 180), "dump_activations": (205.12, 1178), "gate_activations": (0.30, 184),
    "train_dictionary": (35.46, 606), "encode_features": (182.52, 524), "compare_outputs": (11.69, 1737),
    "compare_weights": (1.10, 742), "compare_means": (2.80, 744), "fit_linear_map": (30.24, 463),
    "correlate_features": (3.69, 245), "pair_features": (4.35, 258), "compare_spaces": (0.27, 247),
    "steer_features": (0.21, 1615), "train_crosscoder": (47.38, 495), "evaluate_crosscoder": (0.08, 2171),
    "describe_latents": (6.22, 1452), "compare_seeds": (0.05, 390), "diff_template_tokens": (6.21, 373),
    "draw_template_diff": (10.87, 183), "collect_similarity": (0.34, 183), "map_spaces": (0.01, 466),
    "collect_findings": (1.70, 270), "build_report": (17.0, 178),
}  # fmt: skip


@pytest.fixture(scope="module")
def default():
    return shipped("config.yaml", "none")


@pytest.fixture(scope="module")
def stages(default):
    return {stage.rule: stage for stage in plans.make(default, named("cpu")).stages}


def test_disk_of_the_default_study_is_what_it_took(stages):
    assert set(stages) - {"collect_relations"} == set(MEASURED)
    total = sum(disk for disk, _ in MEASURED.values())
    assert sum(stage.disk.size for stage in stages.values()) / MB == pytest.approx(total, rel=0.1)


@pytest.mark.parametrize("rule", [rule for rule, (disk, _) in MEASURED.items() if disk > 2])
def test_disk_of_its_stages_is_what_they_took(stages, rule):
    assert stages[rule].disk.size / MB == pytest.approx(MEASURED[rule][0], rel=0.1)


@pytest.mark.parametrize("rule", MEASURED)
def test_peak_memory_of_its_stages_is_what_they_took(default, rule):
    sizes = Sizes(default)
    costs = [COSTS[rule](sizes, **job.wildcards) for job in graph.jobs(default) if job.rule == rule]
    resident = max(plans.host_memory(rule, cost, on_gpu=False).size + cost.pages for cost in costs)
    assert resident / MB == pytest.approx(MEASURED[rule][1], rel=0.25)


def test_a_dump_takes_its_values_and_norms_and_a_sample_of_the_neighbours():
    study = small()
    cost = COSTS["dump_activations"](Sizes(study), corpus="text", model="base", group="main", shard="0")
    values = 64_000 * (2 * 32 + 4) + 4096 * (8 + 2 * 32)  # the last of two blocks has one neighbour
    assert cost.scratch == values
    assert cost.disk == values + 6 * H5_DATASET
    assert cost.flops == 2 * 2 * (4 * 32 * 32 + 3 * 32 * 128) * 64_000 + 64_000 * 2 * 4 * 32 * 64
    assert cost.half_flops == 0


@pytest.mark.parametrize(
    ("dtype", "shard", "bytes_a_parameter"), [("bfloat16", 0, 4), ("bfloat16", 1, 2), ("float32", 0, 4)]
)
def test_a_dump_holds_its_model_in_float32_where_it_measures_its_precision(dtype, shard, bytes_a_parameter):
    study = small(activations={"shards": 2, "batch_tokens": 64})
    sizes = Sizes(
        study.model_copy(update={"models": {k: m.model_copy(update={"dtype": dtype}) for k, m in study.models.items()}})
    )
    cost = COSTS["dump_activations"](sizes, corpus="text", model="base", group="main", shard=str(shard))
    batch = 512 if dtype == "bfloat16" and shard == 0 else 64
    expected = bytes_a_parameter * (sizes.shape("base").parameters + batch * (8 * 32 + 2 * 128))
    assert max(cost.memory, cost.cpu_memory) == expected
    on_cpu, on_gpu = (plans.host_memory("dump_activations", cost, on_gpu=on_gpu).size for on_gpu in (False, True))
    assert on_cpu - on_gpu == expected


def test_other_files_of_a_study_are_planned_with_it(default):
    planned = {(job.rule, *job.wildcards.values()) for job in graph.jobs(default)}
    extra = Layout(default).features("addresses", "planted", "tuned_sae", 0)
    more = {(job.rule, *job.wildcards.values()) for job in graph.jobs(default, [extra])} - planned
    assert {rule for rule, *_ in more} == {"encode_features"}
    assert len(graph.jobs(default, [Layout(default).report()])) == len(planned), "what is planned already counts once"


def test_shards_share_a_dump_and_first_rows_are_few():
    shards = {"activations": {"shards": 4, "store": "float32"}}
    cost = COSTS["dump_activations"](Sizes(small(**shards)), corpus="text", model="base", group="main", shard="0")
    assert cost.scratch == 16_000 * (4 * 32 + 4) + 1024 * (8 + 2 * 32)
    first = {"sites": {"main": {"sites": ["last"], "rows": "first"}}}
    cost = COSTS["dump_activations"](Sizes(small(**first)), corpus="text", model="base", group="main", shard="0")
    assert cost.tokens == 1000 * 5
    assert cost.scratch == 1000 * 5 * (2 * 32 + 4 + 8)


def test_half_precision_is_counted_apart():
    models = {"base": {"kind": "random", "dtype": "bfloat16"}, "other": {"kind": "random", "tokenizer": "base"}}
    cost = COSTS["dump_activations"](Sizes(small(models=models)), corpus="text", model="base", group="main", shard="0")
    assert cost.flops == 0
    assert cost.half_flops > 0


CROSSCODER = {"models": ["base", "other"], "corpus": "text", "site": "last", "n_latents": 256, "k": 8, "steps": 10,
              "batch": 100, "splice_tokens": 0}  # fmt: skip


def trained(**settings):
    study = small(crosscoders={"one": {**CROSSCODER, **settings}})
    return COSTS["train_crosscoder"](Sizes(study), crosscoder="one", site="last", seed="0")


def test_a_crosscoders_step_multiplies_with_the_encoder_and_its_file_holds_four_matrices():
    cost = trained()
    assert cost.flops == 1000 * (2 * 256 * 64 + 8 * 8 * 64)
    assert cost.disk == pytest.approx(4 * 2 * 256 * 64, rel=0.15)
    assert trained(objective="l1").flops == 1000 * 12 * 256 * 64
    assert trained(compute="bfloat16").half_flops == cost.flops
    assert trained(steps=20).flops == 2 * cost.flops


def test_accumulation_saves_memory_and_a_stream_runs_the_models():
    cost = trained(batch=4096, n_latents=4096)
    assert trained(batch=4096, n_latents=4096, accumulate=4).memory < cost.memory
    corpora = {name: {"tokens": 64_000, "sources": {"all": TEXT}} for name in ("text", "more")}
    streamed = small(crosscoders={"one": {**CROSSCODER, "stream": "more"}}, corpora=corpora)
    with_models = COSTS["train_crosscoder"](Sizes(streamed), crosscoder="one", site="last", seed="0")
    assert with_models.flops > trained().flops
    assert with_models.memory > trained().memory


def test_features_take_8_bytes_each_and_40_a_row():
    study = small(
        dictionaries={"sae": {"model": "base", "corpus": "text", "site": "last", "n_features": 64, "k": 4}},
        pairs={"two": {"a": "base", "b": "other", "corpus": "text", "sites": ["last"], "dictionary_a": "sae",
                       "dictionary_b": "sae"}},
    )  # fmt: skip
    sizes = Sizes(study)
    cost = COSTS["encode_features"](sizes, corpus="text", model="base", dictionary="sae", shard="0")
    rows = 63_000
    assert sizes.rows("text") == rows
    assert cost.disk == pytest.approx(rows * (8 * 4 + 40), rel=0.02)


@pytest.mark.parametrize(
    ("name", "width", "features"),
    [
        ("gemma-scope-9b-pt-res-canonical layer_20/width_131k/canonical", 3584, 131_072),
        ("gemma-scope-2b-pt-res layer_3/width_1m/average_l0_40", 2304, 1_048_576),
        ("llama_scope_lxr_32x l15r_32x", 4096, 131_072),
        (" EleutherAI/sae-pythia-70m-32k layers.0", 512, 32_768),
        ("gemma-2b-res-jb blocks.12.hook_resid_post", 2048, 16_384),
        (" owner/plain", 512, None),
    ],
)
def test_names_of_published_dictionaries_tell_their_size(name, width, features):
    assert _named(name, width) == features


def test_a_dictionary_of_unknown_size_is_named_with_what_to_do():
    study = small(dictionaries={"sae": {"kind": "sparsify", "id": "owner/plain", "model": "base", "site": "last"}})
    with pytest.raises(
        DiptychError, match=r"dictionaries\.sae: unknown number .* run `snakemake none/dictionaries/sae"
    ):
        Sizes(study).dictionary("sae")


def test_every_rule_with_an_output_has_a_cost():
    assert set(COSTS) == set(graph.OUTPUTS)
