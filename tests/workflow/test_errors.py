"""Bad configs, as a user meets them: one line, exit code not 0, nothing made."""

import pytest

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 8", "stepz: 8", "models.tuned.stepz: unknown key; did you mean 'steps'?"),
        ("b: tuned,", "b: tund,", "pairs.tuned.b: no model is called 'tund'; did you mean 'tuned'?"),
        ("pair: tuned, corpus: questions", "pair: tund, corpus: questions",
         "template_diffs.tuned.pair: no pair is called 'tund'; did you mean 'tuned'?"),
        ("device: cpu", "device: cpu\ndevice: auto",
         "config/studies/test.yaml: device is given twice, in lines 4 and 5; take one out"),
        ("device: cpu", "device: tpu", "device: input should be 'auto', 'cpu' or 'cuda' (got 'tpu')"),
    ],
)  # fmt: skip
def test_a_bad_config_is_one_line(blank, old, new, message):
    blank.edit("config/studies/test.yaml", old, new)
    run = blank.snakemake("--dry-run", check=False)
    assert run.returncode != 0
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Using workflow specific profile")]
    assert said == [message]
    assert not (blank.path / "results" / "test" / "models").exists()


@pytest.mark.parametrize(
    ("old", "new", "target", "message"),
    [
        ("farm-*[02468].txt", "barn-*.txt", "results/test/corpora/both/manifest.json", "barn-*.txt"),
        ("tokens: 6144", "tokens: 999999", "results/test/tokens/both/base.h5", "corpus source"),
        (
            "{kind: random, architecture: gpt2, layers: 2, width: 24, heads: 4, vocabulary: 300, seed: 1, dtype",
            "{kind: directory, path: no/such/place, dtype",
            "results/test/models/other/manifest.json",
            "no/such/place",
        ),
        ("path: tests/data/dictionary", "path: no/such/dictionary",
         "results/test/dictionaries/first_sae/manifest.json", "no/such/dictionary"),
        ("tests/data/dictionary, model: base", "tests/data/dictionary, model: other",
         "results/test/dictionaries/first_sae/manifest.json", "reads rows of width 32, but other has width 24"),
        ("[river, bridge, mill, tower]", "[zebra]", "results/test/models/planted/manifest.json", "zebra"),
        ("template: chatml", "template: chatml\n    positions: {newline: 0, before: -9}",
         "results/test/tokens/questions/base.h5", "#0: the template position 'before' (-9) is absent"),
        ("layer: 1", "layer: 7", "results/test/models/planted/manifest.json", "layer"),
        ("main: [last, first]", "main: [last, first, blocks.0.hook_resid_pst]",
         "results/test/activations/both/base/main/0.h5", "did you mean"),
    ],
)  # fmt: skip
def test_a_bad_input_is_one_line_of_its_job(done, old, new, target, message):
    done.edit("config/studies/test.yaml", old, new)
    run = done.snakemake(target, check=False)
    assert run.returncode != 0
    errors = {line.split(" ERROR ", 1)[1] for line in run.stderr.splitlines() if " ERROR " in line}
    assert len(errors) == 1, run.stderr[-3000:]
    assert message in errors.pop()
    assert "Traceback" not in run.stderr
