"""`snakemake leaderboard` on the test study: two methods, no model, no text; and nothing on a second run."""

import pytest

pytestmark = pytest.mark.workflow


def test_a_small_leaderboard_runs_and_runs_once(blank):
    config = blank.config()
    config["leaderboard"] |= {"limit_documents": [], "cases": {"planted": config["leaderboard"]["cases"]["planted"]}}
    blank.write_config(config)
    blank.snakemake("leaderboard")
    results = blank.path / "results" / "test"
    assert not (results / "models").exists()
    text = (results / "leaderboard" / "leaderboard.tsv").read_text(encoding="utf-8")
    assert text.startswith("schema\tmethod\tcase\tkind\tquantity\tvalue\tlo\thi\tseeds\tnote\n1\tlinear_map\tplanted")
    assert "processor_s" in text
    assert "linear map" in (results / "leaderboard" / "index.html").read_text(encoding="utf-8")
    again = blank.snakemake("leaderboard")
    assert "Nothing to be done" in again.stdout + again.stderr
