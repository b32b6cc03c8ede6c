from pathlib import Path

from state.paths import CampaignPaths, JobPaths


def test_every_file_of_a_campaign_is_below_its_own_folder(tmp_path: Path) -> None:
    paths = CampaignPaths(tmp_path, "night")
    named = [getattr(paths, name) for name, member in vars(CampaignPaths).items() if isinstance(member, property)]
    assert len(set(named)) == len(named)
    assert [path for path in named if not path.is_relative_to(paths.root)] == [paths.home / "ledger.head"]
    assert paths.artifact("0123456789abcdef0123") == paths.artifacts / "0123456789abcdef"
    assert paths.job("k1") == JobPaths(paths.jobs / "k1")


def test_every_file_of_a_job_is_in_its_folder(tmp_path: Path) -> None:
    job = JobPaths(tmp_path / "k1")
    told = [getattr(job, name) for name, member in vars(JobPaths).items() if isinstance(member, property)]
    named = [path for path in told if isinstance(path, Path)]
    assert len(set(named)) == len(named)
    assert {path.parent for path in named} == {job.folder}
