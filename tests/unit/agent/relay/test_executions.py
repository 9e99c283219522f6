"""When an execution has ended, and who has got it."""

from __future__ import annotations

from backendai_jupyter.agent.relay.deliveries import Beginning, Deliveries, Session
from backendai_jupyter.agent.relay.executions import Execution, Executions


class Story:
    """A kernel's life in a few words; ``seq`` grows by one with each record."""

    def __init__(self) -> None:
        self.seq = 0
        self.executions = Executions()
        self.deliveries = Deliveries(self.executions, {})

    def say(self, count: int = 1) -> None:
        """Publish something that belongs to no cell."""
        self.seq += count

    def ask(self, msg_id: str, owner: str) -> Execution:
        self.seq += 1
        return self.executions.requested(self.seq, msg_id, b"{}", owner.encode())

    def run(self, msg_id: str) -> None:
        """Publish something of a cell."""
        self.seq += 1
        self.executions.seen(self.seq, msg_id, b"{}")

    def end(self, msg_id: str) -> None:
        """Publish the reply of a cell, and that it is idle."""
        self.seq += 1
        execution = self.executions.seen(self.seq, msg_id, b"{}")
        assert not self.executions.replied(self.seq, execution)
        self.seq += 1
        assert self.executions.became_idle(self.seq, execution)
        self.deliveries.ended(execution)

    def attach(self, session: str, after: int | None = None) -> Beginning:
        return self.deliveries.attach(session, after, self.seq)

    def ack(self, session: str, seq: int | None = None) -> None:
        self.deliveries.ack(session, self.seq if seq is None else seq)


def test_an_execution_ends_with_the_later_of_reply_and_idle() -> None:
    executions = Executions()
    a, b = (executions.requested(1, msg_id, b"{}", b"me") for msg_id in "ab")
    assert not executions.replied(5, a)
    assert not executions.became_idle(6, b)
    assert set(executions.unfinished) == {"a", "b"}
    assert executions.became_idle(7, a)
    assert executions.replied(8, b)
    assert (a.end_seq, b.end_seq) == (7, 8)
    assert not executions.unfinished


def test_output_that_overtook_its_request_is_the_beginning() -> None:
    story = Story()
    story.run("a")
    execution = story.ask("a", "me")
    assert (execution.first_seq, execution.owner) == (1, "me")


def test_a_new_kernel_program_ends_what_the_former_one_left_and_nothing_else() -> None:
    story = Story()
    story.ask("a", "me")
    story.executions.kernel_gone()
    story.ask("for the next", "me")
    ended = story.executions.kernel_came(story.seq)
    assert [execution.msg_id for execution in ended] == ["a"]
    assert list(story.executions.unfinished) == ["for the next"]


def test_a_relay_that_finds_the_kernel_again_ends_nothing() -> None:
    story = Story()
    story.ask("a", "me")
    assert story.executions.kernel_came(story.seq) == []


def test_the_execution_that_a_record_belongs_to_is_the_latest_before_it() -> None:
    story = Story()
    story.ask("a", "me")
    story.say(5)
    story.ask("b", "me")
    assert story.executions.concerned(0) is None
    assert [story.executions.concerned(seq) for seq in (3, 9)] == [
        story.executions.seen(0, "a", b""),
        story.executions.seen(0, "b", b""),
    ]


def test_a_new_session_begins_at_the_end_when_everything_was_delivered() -> None:
    story = Story()
    story.attach("me")
    story.ask("a", "me")
    story.end("a")
    story.ack("me")
    assert story.attach("other") == Beginning(story.seq, known=False)


def test_a_new_session_begins_before_a_cell_that_runs() -> None:
    story = Story()
    story.attach("me")
    story.say(10)
    story.ask("a", "me")
    story.run("a")
    story.ack("me")
    assert story.attach("other") == Beginning(10, known=False)


def test_cells_of_clients_that_never_read_the_journal_are_not_repeated() -> None:
    story = Story()
    story.ask("a", "nbclient")
    assert story.attach("me") == Beginning(story.seq, known=False)


def test_output_of_which_nobody_saw_the_request_is_nobodys() -> None:
    story = Story()
    story.attach("")
    story.run("a")
    assert story.attach("me") == Beginning(story.seq, known=False)


def test_a_session_that_comes_back_goes_on_after_what_it_acknowledged() -> None:
    story = Story()
    story.attach("me")
    story.say(10)
    story.ack("me", 4)
    story.deliveries.detach("me")
    assert story.attach("me") == Beginning(4, known=True)


def test_a_server_that_comes_back_says_where_it_goes_on() -> None:
    story = Story()
    story.say(10)
    assert story.attach("me", after=7) == Beginning(7, known=False)
    assert story.attach("me", after=99) == Beginning(10, known=True)


def test_a_page_that_is_reloaded_inherits_what_its_former_self_did_not_get() -> None:
    story = Story()
    story.attach("me")
    story.ask("a", "me")
    story.deliveries.detach("me")
    story.end("a")
    assert story.attach("reloaded") == Beginning(0, known=False)
    assert story.attach("another") == Beginning(0, known=False)
    story.ack("reloaded")
    assert story.attach("a third") == Beginning(story.seq, known=False)


def test_who_came_before_the_owner_had_gone_is_no_heir() -> None:
    """A second window that is always open does not swallow what the first one missed."""
    story = Story()
    story.attach("me")
    story.attach("window")
    story.ask("a", "me")
    story.ack("me")
    story.deliveries.detach("me")
    story.end("a")
    story.ack("window")
    assert story.attach("reloaded") == Beginning(0, known=False)


def test_who_came_before_anybody_noticed_that_the_owner_had_gone_is_an_heir() -> None:
    story = Story()
    story.attach("me")
    story.ask("a", "me")
    story.run("a")
    story.attach("reloaded")  # the link of the former page had broken without a word
    story.end("a")
    story.deliveries.detach("me")
    story.ack("reloaded")
    assert story.attach("another") == Beginning(story.seq, known=False)


def test_an_heir_who_missed_the_beginning_does_not_count() -> None:
    story = Story()
    story.attach("me")
    story.ask("a", "me")
    story.deliveries.detach("me")
    story.attach("reconnected", after=story.seq)
    story.end("a")
    story.ack("reconnected")
    assert story.attach("reloaded") == Beginning(0, known=False)


def test_positions_outlive_the_process() -> None:
    story = Story()
    story.attach("me")
    story.say(10)
    story.ack("me", 6)
    story.deliveries.detach("me")
    saved = {name: Session(**one) for name, one in story.deliveries.sessions().items()}
    again = Deliveries(Executions(), saved)
    assert again.last_acked == 6
    assert again.attach("me", None, 10) == Beginning(6, known=True)


def test_sessions_that_have_gone_do_not_pile_up() -> None:
    story = Story()
    story.attach("stays")
    for i in range(1000):
        story.attach(f"passes {i}")
        story.deliveries.detach(f"passes {i}")
    names = story.deliveries.sessions()
    assert len(names) <= 201
    assert {"stays", "passes 999"} <= set(names)


def test_executions_that_nobody_ends_do_not_pile_up() -> None:
    story = Story()
    for i in range(10_100):
        story.ask(f"{i}", "me")
    assert len(story.executions.unfinished) == 10_000
