"""How a store behaves, whatever it is kept in: `test_store.py` runs this on each kind.

A store that is added gets a subclass there, with `store` and `clock` as fixtures.
"""

import threading
from typing import Any

import pytest
from pydantic import ValidationError

from state.clock import FakeClock
from state.errors import LeaseLostError, NotFoundError, StoreError
from state.records import Action, Approval, Evidence, Fingerprint, Job, Measurement, Premise, Run
from state.schema import TABLES, WRITERS
from state.store import Store
from tests.state import samples

ELSEWHERE = (Fingerprint(kind="file", name="data.jsonl", value="def"),)
"""Another world than the samples'."""
SEEN = Evidence(kind="probe", ref="P1", summary="The ceiling is 0.4.")


def journal(store: Store) -> list[dict[str, Any]]:
    """Return the journal's rows."""
    with store._reading() as rows:
        return rows.select("SELECT * FROM journal ORDER BY seq")


def fail_halfway(store: Store) -> None:
    """Write twice and break off."""
    store.knowing.believe(samples.belief(subject="data:train"))
    store.doing.intend(samples.action())
    store.doing.finish("k9", {})


class Beliefs:
    def test_a_belief_gets_an_id_and_comes_back_as_it_was(self, store: Store) -> None:
        given = samples.belief(value={"regular": [1, None, "é"]})
        kept = store.knowing.believe(given)
        assert kept == given.model_copy(update={"id": "B1"})
        assert store.read.belief("B1") == kept
        assert store.read.all_standing() == [kept]

    def test_a_new_value_supersedes_the_one_that_stood(self, store: Store) -> None:
        store.knowing.believe(samples.belief(value=0.75))
        store.knowing.believe(samples.belief(value=0.8, stands_on=ELSEWHERE))
        first, second = store.read.beliefs()
        assert (first.status, first.superseded_by) == ("superseded", "B2")
        assert (second.status, second.superseded_by) == ("fresh", "")
        assert store.read.all_standing() == [second]

    def test_saying_the_same_again_writes_nothing(self, store: Store) -> None:
        first = store.knowing.believe(samples.belief(formed_at=10.0))
        again = store.knowing.believe(samples.belief(formed_at=99.0))
        assert again == first
        assert len(store.read.beliefs()) == 1

    def test_numbers_that_are_none_are_kept_as_words_and_recognized_again(self, store: Store) -> None:
        kept = store.knowing.believe(samples.belief(value={"loss": float("nan"), "best": [float("inf")]}))
        again = store.knowing.believe(samples.belief(value={"loss": float("nan"), "best": [float("inf")]}))
        assert again.id == kept.id
        assert store.read.belief(kept.id).value == {"loss": "NaN", "best": ["Infinity"]}

    def test_a_refuted_claim_that_holds_again_is_superseded_too(self, store: Store) -> None:
        refuted = store.knowing.believe(samples.belief(status="refuted"))
        fixed = store.knowing.believe(samples.belief())
        assert store.read.belief(refuted.id).superseded_by == fixed.id
        assert store.read.all_standing() == [fixed]

    def test_the_same_words_about_another_subject_are_another_belief(self, store: Store) -> None:
        store.knowing.believe(samples.belief(subject="data:train"))
        store.knowing.believe(samples.belief(subject="data:valid"))
        assert [belief.status for belief in store.read.beliefs()] == ["fresh", "fresh"]

    def test_marking_changes_the_status_alone(self, store: Store) -> None:
        kept = store.knowing.believe(samples.belief())
        assert store.knowing.mark("B1", "stale") == kept.model_copy(update={"status": "stale"})
        assert store.knowing.mark("B1", "fresh") == kept

    def test_a_second_fresh_belief_of_one_claim_is_refused(self, store: Store) -> None:
        store.knowing.believe(samples.belief(value=0.75))
        store.knowing.believe(samples.belief(value=0.8, stands_on=ELSEWHERE))
        with pytest.raises(StoreError, match="B1 cannot be fresh: B2 is"):
            store.knowing.mark("B1", "fresh")

    def test_what_was_refuted_stays_so_when_it_is_superseded(self, store: Store) -> None:
        store.knowing.believe(samples.belief())
        store.knowing.refute("B1", SEEN)
        store.knowing.believe(samples.belief(value=0.8, stands_on=ELSEWHERE))
        old, new = store.read.beliefs()
        assert (old.status, old.superseded_by, new.status) == ("refuted", "B2", "fresh")

    def test_two_values_of_one_claim_about_the_same_world_contradict_each_other(self, store: Store) -> None:
        store.knowing.believe(samples.belief(value=0.75))
        store.knowing.believe(samples.belief(value=0.8))
        assert [(b.status, b.superseded_by) for b in store.read.beliefs()] == [("contradicted", "")] * 2
        assert store.knowing.believe(samples.belief(value=0.75, formed_at=99.0)).id == "B1", "said again, nothing new"
        assert len(store.read.beliefs()) == 2

    def test_what_was_only_inferred_or_stands_elsewhere_contradicts_nothing(self, store: Store) -> None:
        store.knowing.believe(samples.belief(value=0.75, tag="inferred"))
        store.knowing.believe(samples.belief(value=0.8, tag="inferred"))
        store.knowing.believe(samples.belief(value=0.85, stands_on=()))
        store.knowing.believe(samples.belief(value=0.9, stands_on=()))
        assert [b.status for b in store.read.beliefs()] == ["superseded"] * 3 + ["fresh"]

    def test_a_person_settles_a_contradiction_and_the_other_side_is_refuted(self, store: Store) -> None:
        store.knowing.believe(samples.belief(value=0.75))
        store.knowing.believe(samples.belief(value=0.8))
        store.knowing.settle("B2", SEEN)
        first, second = store.read.beliefs()
        assert (first.status, first.superseded_by, first.evidence[-1]) == ("refuted", "B2", SEEN)
        assert (second.status, second.evidence[-1]) == ("fresh", SEEN)
        with pytest.raises(StoreError, match="B2 is fresh; only a contradicted one"):
            store.knowing.settle("B2", SEEN)

    def test_no_more_than_two_sides_of_a_contradiction_stand(self, store: Store) -> None:
        for value in (0.75, 0.8):
            store.knowing.believe(samples.belief(value=value))
        store.knowing.mark("B2", "fresh")
        store.knowing.believe(samples.belief(value=0.9))
        rows = [(b.value, b.status, b.superseded_by) for b in store.read.beliefs()]
        assert rows == [(0.75, "contradicted", "B3"), (0.8, "contradicted", ""), (0.9, "contradicted", "")]

    def test_a_changed_world_ends_a_contradiction(self, store: Store) -> None:
        store.knowing.believe(samples.belief(value=0.75))
        store.knowing.believe(samples.belief(value=0.8))
        store.knowing.believe(samples.belief(value=0.9, stands_on=ELSEWHERE))
        assert [(b.status, b.superseded_by) for b in store.read.beliefs()] == [
            ("superseded", "B3"),
            ("superseded", "B3"),
            ("fresh", ""),
        ]

    def test_a_mark_keeps_what_was_seen(self, store: Store) -> None:
        store.knowing.believe(samples.belief())
        assert store.knowing.mark("B1", "stale", evidence=SEEN).evidence[-1] == SEEN

    def test_what_was_never_believed_cannot_be_marked(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match="no belief B9"):
            store.knowing.mark("B9", "stale")

    def test_refuting_names_everything_that_stood_on_it(self, store: Store) -> None:
        store.knowing.believe(samples.belief(claim="ceiling"))
        store.knowing.believe(samples.belief(claim="reachable", premises=("B1",)))
        store.knowing.believe(samples.belief(claim="power", premises=("B2",)))
        store.knowing.believe(samples.belief(claim="unrelated"))
        store.deciding.decide(samples.decision(premises=(Premise(belief="B3", tag="inferred"),)), run=samples.run())
        store.deciding.decide(samples.decision("Other.", premises=(Premise(belief="B4", tag="inferred"),)))
        assert store.knowing.refute("B1", SEEN) == ["B2", "B3", "D1", "R1"]
        assert [belief.status for belief in store.read.beliefs()] == ["refuted", "stale", "stale", "fresh"]
        assert store.read.belief("B1").evidence[-1] == SEEN

    def test_refuting_ends_where_premises_go_in_circles(self, store: Store) -> None:
        store.knowing.believe(samples.belief(claim="a", premises=("B2",)))
        store.knowing.believe(samples.belief(claim="b", premises=("B1",), status="refuted"))
        assert store.knowing.refute("B1", SEEN) == ["B2"]
        assert store.read.belief("B2").status == "refuted"


class Measurements:
    def test_measured_cases_come_back_as_they_were(self, store: Store) -> None:
        store.knowing.measure([samples.measurement("c1"), samples.measurement("c2", finish_reason="length")])
        kept = store.read.measurements()
        assert kept == [
            samples.measurement("c1", id="M1"),
            samples.measurement("c2", id="M2", finish_reason="length"),
        ]

    def test_digesting_an_evaluation_again_changes_nothing(self, store: Store) -> None:
        store.knowing.measure([samples.measurement("c1")])
        changed = samples.measurement("c1", metrics={"rows_kept": 1.0})
        store.knowing.measure([changed, samples.measurement("c2"), samples.measurement("c2")])
        assert [(each.case, each.metrics["rows_kept"]) for each in store.read.measurements()] == [
            ("c1", 0.5),
            ("c2", 0.5),
        ]

    def test_a_metric_that_is_no_number_is_unknown_and_never_zero(self, store: Store) -> None:
        store.knowing.measure([samples.measurement(metrics={"a": float("nan"), "b": float("-inf"), "c": None, "d": 0})])
        assert store.read.measurements()[0].metrics == {"a": None, "b": None, "c": None, "d": 0.0}

    def test_cases_are_found_by_what_they_measure(self, store: Store) -> None:
        other = samples.measurement("c1", evaluation="k3", side="candidate", run="R1")
        store.knowing.measure([samples.measurement("c1"), samples.measurement("c1", use="confirmation"), other])
        assert [each.id for each in store.read.find(Measurement, side="base", use="selection")] == ["M1"]
        assert [each.id for each in store.read.find(Measurement, run="R1", split="stress")] == ["M3"]


class Actions:
    def test_an_intent_is_there_before_its_result(self, store: Store, clock: FakeClock) -> None:
        assert store.doing.intend(samples.action()) == samples.action()
        clock.advance(7)
        done = store.doing.finish("k1", {"adapter": "a1"}, ("folder created",))
        assert (done.state, done.result, done.side_effects) == ("done", {"adapter": "a1"}, ("folder created",))
        assert done.finished_at == clock.now()
        assert store.read.one(Action, key="k1") == done

    def test_one_key_is_one_action(self, store: Store) -> None:
        store.doing.intend(samples.action())
        store.doing.finish("k1", {"adapter": "a1"})
        again = store.doing.intend(samples.action())
        assert again.state == "done"
        assert len(store.read.actions()) == 1

    def test_finishing_twice_keeps_the_first_result(self, store: Store) -> None:
        store.doing.intend(samples.action())
        store.doing.fail("k1", {"reason": "disk"})
        assert store.doing.fail("k1", {"reason": "other"}).result == {"reason": "disk"}

    def test_what_is_done_cannot_fail(self, store: Store) -> None:
        store.doing.intend(samples.action())
        store.doing.finish("k1", {})
        with pytest.raises(StoreError, match="k1 is done already"):
            store.doing.fail("k1", {})

    def test_open_intents_can_be_asked_for(self, store: Store) -> None:
        store.doing.intend(samples.action("k1"))
        store.doing.intend(samples.action("k2"))
        store.doing.finish("k1", {})
        assert [action.key for action in store.read.actions(state="intent")] == ["k2"]

    def test_an_action_never_intended_cannot_end(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match="no action k1"):
            store.doing.finish("k1", {})

    def test_one_key_is_one_job(self, store: Store) -> None:
        assert store.doing.record_job(samples.job()).id == "J1"
        store.doing.update_job("k1", state="running", step=4, supervisor={"pid": 12})
        again = store.doing.record_job(samples.job())
        assert (again.id, again.state, again.step, again.supervisor) == ("J1", "running", 4, {"pid": 12})
        assert store.read.jobs() == [again]
        assert store.read.one(Job, key="k1") == again

    def test_a_job_has_no_other_fields(self, store: Store) -> None:
        store.doing.record_job(samples.job())
        with pytest.raises(ValidationError):
            store.doing.update_job("k1", mood="good")
        with pytest.raises(NotFoundError, match="no job k9"):
            store.doing.update_job("k9", step=1)


class Decisions:
    def test_a_decision_its_run_and_its_commitments_are_one(self, store: Store) -> None:
        decision = store.deciding.decide(samples.decision(), [samples.commitment()], samples.run())
        assert (decision.id, decision.run) == ("D1", "R1")
        assert store.read.decision("D1") == decision
        assert store.read.one(Run, id="R1") == samples.run(id="R1", decision="D1")
        assert store.read.commitments() == [samples.commitment(id="C1", decision="D1")]

    def test_a_run_may_know_its_id_beforehand(self, store: Store) -> None:
        assert store.deciding.decide(samples.decision(), run=samples.run(id="R1")).run == "R1"
        with pytest.raises(StoreError, match="next run is R2, not R7"):
            store.deciding.decide(samples.decision("Another."), run=samples.run(id="R7"))
        assert len(store.read.decisions()) == len(store.read.runs()) == 1

    def test_deciding_the_same_again_after_a_crash_is_the_same_decision(self, store: Store) -> None:
        first = store.deciding.decide(samples.decision(made_at=1.0), [samples.commitment()], samples.run())
        again = store.deciding.decide(samples.decision(made_at=2.0), [samples.commitment()], samples.run())
        assert again == first
        assert len(store.read.decisions()) == len(store.read.runs()) == len(store.read.commitments()) == 1

    def test_the_same_choice_later_is_a_decision_of_its_own(self, store: Store) -> None:
        store.deciding.decide(samples.decision("Wait."))
        store.deciding.decide(samples.decision("Train."))
        assert store.deciding.decide(samples.decision("Wait.")).id == "D3"

    def test_a_verdict_is_kept_with_its_run(self, store: Store) -> None:
        store.deciding.decide(samples.decision(), run=samples.run())
        assert store.deciding.update_run("R1", state="trained", adapter="a1", cost_s_actual=60.0).adapter == "a1"
        judged = store.deciding.judge("R1", "B", "judged")
        assert (judged.bucket, judged.state, judged.adapter) == ("B", "judged", "a1")
        assert store.deciding.judge("R1", None, "lost").bucket is None

    def test_a_decision_that_judges_a_run_keeps_that_run(self, store: Store) -> None:
        store.deciding.decide(samples.decision(), run=samples.run())
        second = store.deciding.decide(samples.decision("Again.", run="R1", bucket="C"), run=samples.run())
        assert (second.run, store.read.one(Run, id="R2").decision) == ("R1", "D2")

    def test_a_commitment_is_closed_once(self, store: Store) -> None:
        store.deciding.decide(samples.decision(), [samples.commitment(), samples.commitment()])
        store.deciding.close_commitment("C1", "cancelled", "ada")
        assert store.deciding.close_commitment("C1", "kept", "D2").closed_by == "ada"
        assert [each.status for each in store.read.commitments()] == ["cancelled", "open"]


class Campaigns:
    def test_beginning_twice_is_beginning_once(self, store: Store, clock: FakeClock) -> None:
        campaign = store.agent.begin(samples.goal())
        assert (campaign.name, campaign.state, campaign.started_at) == ("night", "running", clock.now())
        assert store.agent.begin(samples.goal(file_hash="f2")) == campaign
        assert store.read.goals() == [samples.goal()]

    def test_only_the_campaign_row_says_that_it_ended(self, store: Store) -> None:
        store.agent.begin(samples.goal())
        store.agent.set_campaign(state="not_promoted", sentence="No run held the gate.", ended_at=9.0)
        ended = store.read.campaign()
        assert (ended.state, ended.sentence, ended.ended_at) == ("not_promoted", "No run held the gate.", 9.0)

    def test_before_it_begins_there_is_no_campaign(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match="no campaign"):
            store.read.campaign()
        with pytest.raises(NotFoundError, match="no campaign"):
            store.agent.set_campaign(state="stopped")

    def test_each_edit_is_a_version(self, store: Store) -> None:
        store.agent.begin(samples.goal())
        edit = samples.goal(version=2, file_hash="f2", difference=("The threshold is 0.9 now.",))
        assert store.agent.record_goal(edit) == edit
        assert store.agent.record_goal(edit) == edit
        assert store.read.goals() == [samples.goal(), edit]

    def test_a_version_is_never_rewritten(self, store: Store) -> None:
        store.agent.begin(samples.goal())
        with pytest.raises(StoreError, match="another file already"):
            store.agent.record_goal(samples.goal(file_hash="f9"))

    def test_the_first_answer_wins(self, store: Store, clock: FakeClock) -> None:
        assert store.agent.ask(samples.approval()).id == "Q1"
        yes = store.agent.answer("Q1", "yes", "ada", "looks right")
        assert (yes.answer, yes.answered_by, yes.answered_at) == ("yes", "ada", clock.now())
        assert store.agent.answer("Q1", "no", "bob") == yes
        assert store.read.one(Approval, id="Q1") == yes
        assert store.read.approvals() == [yes]

    def test_one_question_of_a_kind_about_one_decision(self, store: Store) -> None:
        store.agent.ask(samples.approval())
        assert store.agent.ask(samples.approval(question="Really?")).question == "Promote R1?"
        assert store.agent.ask(samples.approval(kind="launch")).id == "Q2"

    def test_an_answer_to_no_question_is_refused(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match="no approval Q1"):
            store.agent.answer("Q1", "yes", "ada")


class Transactions:
    def test_writes_joined_in_one_transaction_are_all_kept_or_none(self, store: Store) -> None:
        with pytest.raises(NotFoundError), store.transaction():
            fail_halfway(store)
        assert store.read.beliefs() == []
        assert store.read.actions() == []
        with store.transaction():
            store.knowing.believe(samples.belief())
            store.doing.intend(samples.action())
        assert len(store.read.beliefs()) == len(store.read.actions()) == 1

    def test_a_part_that_fails_leaves_the_rest(self, store: Store) -> None:
        with store.transaction():
            store.knowing.believe(samples.belief())
            with pytest.raises(NotFoundError), store.transaction():
                fail_halfway(store)
        assert [belief.subject for belief in store.read.beliefs()] == ["model:parent"]
        assert store.read.actions() == []

    def test_threads_take_turns(self, store: Store) -> None:
        def believe(name: str) -> None:
            for value in range(20):
                store.knowing.believe(samples.belief(subject=name, value=value))

        threads = [threading.Thread(target=believe, args=(f"data:{index}",)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [belief.id for belief in store.read.beliefs()] == [f"B{index}" for index in range(1, 81)]

    @pytest.mark.parametrize("node", ["knowing", "doing", "deciding", "agent"])
    def test_a_node_cannot_write_the_tables_of_another_even_in_plain_sql(self, store: Store, node: str) -> None:
        store.agent.begin(samples.goal())
        for table in TABLES.values():
            statements = [
                f'UPDATE "{table.name}" SET "{table.columns[-1].name}" = "{table.columns[-1].name}"',  # noqa: S608 - our own names
                f'INSERT INTO "{table.name}" (number) SELECT 1 WHERE 0',
            ]
            for statement in statements:
                with store._write(node) as writer:
                    if table.name in WRITERS[node]:
                        writer._connection.execute(statement)
                        continue
                    with pytest.raises(Exception, match=r"not authorized|prohibited"):
                        writer._connection.execute(statement)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM belief",
            "DELETE FROM journal",
            "UPDATE journal SET node = 'agent'",
            "DROP TABLE belief",
            "PRAGMA journal_mode=OFF",
            "ATTACH ':memory:' AS other",
        ],
    )
    def test_no_node_can_delete_or_change_what_was_written(self, store: Store, statement: str) -> None:
        with (
            pytest.raises(StoreError, match="not authorized"),
            store._write("knowing") as writer,
        ):
            writer._connection.execute(statement)

    def test_outside_a_handle_nothing_can_be_written(self, store: Store) -> None:
        store.knowing.believe(samples.belief())
        with pytest.raises(StoreError, match="not authorized"), store.transaction():
            store._connection.execute("UPDATE belief SET tag = 'assumed'")

    def test_a_statement_that_one_node_may_run_is_refused_to_the_next(self, store: Store) -> None:
        statement = "UPDATE belief SET tag = tag"
        with store._write("knowing") as writer:
            writer._connection.execute(statement)
        with pytest.raises(StoreError, match="not authorized"), store._write("doing") as writer:
            writer._connection.execute(statement)

    def test_a_write_inside_anothers_name_gives_the_name_back(self, store: Store) -> None:
        with store._write("knowing") as writer:
            store.doing.intend(samples.action())
            writer.insert(samples.belief())
        assert [row["node"] for row in journal(store)] == ["lease", "doing", "knowing"]

    def test_a_released_lease_writes_nothing(self, store: Store) -> None:
        store._lease.release()  # type: ignore[attr-defined]  # both kinds of lease have it
        with pytest.raises(LeaseLostError, match="no longer holds"):
            store.knowing.believe(samples.belief())
        assert store.read.beliefs() == []


class StoreSpec(Beliefs, Measurements, Actions, Decisions, Campaigns, Transactions):
    """Everything a store promises."""
