"""What a study found: kept as a table, and gone where it finds nothing any more."""

from types import SimpleNamespace

from ebm.studies import findings
from ebm.studies.findings import conduct, read_rows


def test_a_study_that_finds_nothing_leaves_no_older_findings(tmp_path, monkeypatch):
    answers = iter([{"roughness": 0.5}, None])
    monkeypatch.setattr(findings, "component", lambda kind, name: SimpleNamespace(distribution="mine"))
    monkeypatch.setattr(findings, "imported", lambda found: lambda run: next(answers))
    run = SimpleNamespace(path=tmp_path)
    assert conduct(run, "rough", {}) == read_rows(tmp_path / "rough.csv") == [{"name": "roughness", "value": 0.5}]
    assert conduct(run, "rough", {}) == read_rows(tmp_path / "rough.csv") == []
