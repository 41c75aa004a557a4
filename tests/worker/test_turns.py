"""Training steps and requests never overlap, and neither starves the other."""

from __future__ import annotations

import threading

from splitfrozen_server.worker.turns import Turns


def test_a_waiting_request_goes_before_the_next_step() -> None:
    turns = Turns()
    order: list[str] = []
    asked = threading.Event()

    def request() -> None:
        asked.set()
        with turns.request():
            order.append("request")

    thread = threading.Thread(target=request)
    with turns.step():
        thread.start()
        asked.wait()
        while not turns.requests_waiting:
            pass
    with turns.step():
        order.append("step")
    thread.join()
    assert order == ["request", "step"]


def test_a_waiting_step_goes_before_the_next_request() -> None:
    turns = Turns()
    order: list[str] = []

    def hold(kind: str) -> None:
        with getattr(turns, kind)():
            order.append(kind)

    with turns.request():
        others = [threading.Thread(target=hold, args=("request",)) for _ in range(3)]
        for thread in others:
            thread.start()
        while turns.requests_waiting < 3:
            pass
        others.append(threading.Thread(target=hold, args=("step",)))
        others[-1].start()
        while not turns.steps_waiting:
            pass
    for thread in others:
        thread.join()
    assert order == ["step", "request", "request", "request"]


def test_nobody_computes_beside_another() -> None:
    turns = Turns()
    inside: list[int] = []
    most: list[int] = []

    def work(kind: str) -> None:
        for _ in range(200):
            with getattr(turns, kind)():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work, args=(k,)) for k in ("step", "request", "request")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_a_failing_turn_is_given_back() -> None:
    turns = Turns()
    for kind in (turns.step, turns.request):
        try:
            with kind():
                raise ValueError
        except ValueError:
            pass
    with turns.step():
        pass
