"""Slurm's commands: what they are asked, and what their answers mean. The texts are those of Slurm 22.05.8."""

import shlex

import pytest

from scd import slurm_cli as cli
from scd.placement import Partition, Placement
from scd.slurm_cli import Answer, Verdict
from scd.slurm_partitions import partitions

HASH = "0123456789abcdef0123456789abcdef"


def test_licences_are_read_by_name() -> None:
    shown = "LicenseName=vcs Total=4 Used=1 Free=3 Reserved=0 Remote=no\nLicenseName=drc@flex Total=2 Used=0\n"
    assert cli.licenses(Answer(0, shown, "")) == frozenset({"vcs", "drc@flex"})
    assert cli.licenses(Answer(0, "No licenses configured in Slurm.\n", "")) == frozenset()
    assert cli.licenses(Answer(1, "", "slurm_load_licenses error")) is None


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("slurm-wlm 22.05.8\n", (22, 5)), ("22.5.3", (22, 5)), ("slurm 25.11.1", (25, 11)),
        ("slurm 24.05.0-0rc1", (24, 5)), ("slurm 25.11", (25, 11)), ("slurm-wlm", None), ("", None),
    ],
)  # fmt: skip
def test_versions_of_slurm_and_of_pyslurm(text: str, release: tuple[int, int] | None) -> None:
    assert cli.release(text) == release


@pytest.mark.parametrize(
    ("answer", "verdict", "text"),
    [
        (Answer(0, "17\n", ""), Verdict.ACCEPTED, "17"),
        (Answer(0, "17;cluster\n", ""), Verdict.ACCEPTED, "17"),
        (Answer(0, "", ""), Verdict.UNCERTAIN, "said nothing"),
        (Answer(None, "", ""), Verdict.UNCERTAIN, "no answer in time"),
        (Answer(-9, "", ""), Verdict.UNCERTAIN, "-9"),
        (
            Answer(1, "", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"),
            Verdict.UNCERTAIN, "Socket timed out",
        ),
        (
            Answer(1, "", "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect "
                          "failure)\n"),
            Verdict.UNCERTAIN, "Unable to contact",
        ),
        (
            Answer(1, "", "sbatch: error: invalid partition specified: nope\n"
                          "sbatch: error: Batch job submission failed: Invalid partition name specified\n"),
            Verdict.REFUSED, "Batch job submission failed: Invalid partition name specified",
        ),
        (
            Answer(255, "", "sbatch: unrecognized option '--bogus=3'\nTry \"sbatch --help\" for more information\n"),
            Verdict.REFUSED, "Try",
        ),
        (
            Answer(1, "", "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job "
                          "violates "
                          "accounting/QOS policy (job submit limit, user's size and/or time limits)\n"),
            Verdict.LATER, "Job violates",
        ),
        (
            Answer(1, "", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
                          "sbatch: error: Batch job submission failed: Resource temporarily unavailable\n"),
            Verdict.LATER, "Resource temporarily unavailable",
        ),
    ],
)  # fmt: skip
def test_what_sbatch_means(answer: Answer, verdict: Verdict, text: str) -> None:
    found, words = cli.submitted(answer)
    assert found is verdict
    assert text in words


def test_sbatch_is_told_everything_and_by_whom() -> None:
    placement = Placement(
        executor="slurm", cores=4, memory=3 * 2**30 + 1, time=61.0, partition="bigmem", account="vlsi",
        begin="now+1hour", options=("--constraint=gpu", "--job-name=mine"), license="vcs@flex",
    )  # fmt: skip
    argv = cli.sbatch(f"scd-{HASH}-1.1", "job=1 node=a;b/0 user=x\ny", "/spool/a%j b", placement)
    for option in (
        "--no-requeue", "--export=NIL", "--cpus-per-task=4", "--mem=3073M", "--time=2", "--partition=bigmem",
        "--account=vlsi", "--begin=now+1hour", "--chdir=/spool/a%j b", "--output=/spool/a%%j b/output", "--parsable",
        "--comment=job=1 node=a b/0 user=x y", "--licenses=vcs@flex:1",
    ):  # fmt: skip
        assert option in argv, shlex.join(argv)
    assert argv.index(f"--job-name=scd-{HASH}-1.1") > argv.index("--job-name=mine"), "the last one counts"


def test_what_is_not_asked_for_is_left_to_slurm() -> None:
    argv = cli.sbatch("n", "c", "/d", Placement(executor="slurm"))
    assert not [
        option
        for option in argv
        if option.startswith(("--mem", "--time", "--partition", "--account", "--begin", "--licenses"))
    ]


def test_partitions_as_sinfo_tells_them() -> None:
    text = "compute*|2:00:00|8|4000\ncompute*|2:00:00|64|2000+\nbigmem|1-00:00:00|8|4000\n"
    text += "long|infinite|16+|1\nm|30:00|1|1\n"
    found = partitions(Answer(0, text, ""))
    assert found is not None
    assert found["compute"] == Partition("compute", 7200.0, 64, 4000 * 2**20, True)
    assert (found["bigmem"].time, found["long"].time, found["m"].time) == (86400.0, None, 1800.0)
    assert found["long"].cores == 16
    assert not found["bigmem"].default
    assert partitions(Answer(1, text, "")) is None


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        (Answer(0, "JobId=4 JobName=scd-aa-4.1 UserId=root(0)", ""), True),
        (Answer(0, "JobId=4 JobName=scd-aa-4.10 UserId=root(0)", ""), False),  # the id is another's by now
        (Answer(1, "", "slurm_load_jobs error: Invalid job id specified\n"), False),
        (Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"), None),
        (Answer(None, "", ""), None),
    ],
)
def test_whether_slurm_knows_a_job(answer: Answer, known: bool | None) -> None:
    assert cli.is_known(answer, "scd-aa-4.1") is known


def test_no_option_of_the_daemons_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "elsewhere")
    monkeypatch.setenv("SLURM_CONF", "/its/own")
    found = cli.environment("")
    assert set(found) == {"PATH", "LC_ALL", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_CONF"}
    assert cli.environment("/mine")["SLURM_CONF"] == "/mine"


def test_where_others_have_the_directories_slurm_opens_nothing() -> None:
    argv = cli.sbatch("scd-x", "what", None, Placement("slurm", cores=1))
    assert {"--chdir=/", "--output=/dev/null"} <= set(argv)
    assert not [part for part in argv if "None" in part]


def test_elements_that_are_cancelled_take_one_request_an_array() -> None:
    argv = cli.scancel(["7_1", "12", "7_3", "7_2", "9_5", "7_8"])
    assert argv == ["scancel", "7_[1-3,8]", "12", "9_[5]"]
    assert cli.requests(argv) == 3


def test_an_array_is_told_its_elements() -> None:
    argv = cli.sbatch("n-array", "c", None, Placement(executor="slurm"), [1, 2, 3, 7])
    assert "--array=1-3,7" in argv
    assert cli.requests(argv) == 1
