"""No image is claimed by two workers."""

from __future__ import annotations

import threading

from upload.claims import Claims


def test_one_of_many_threads_gets_a_claim() -> None:
    claims = Claims()
    ready = threading.Barrier(8)
    won: list[int] = []

    def take() -> None:
        ready.wait()
        won.extend(n for n in range(100) if claims.take(n))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(100))
    assert (claims.count(), claims.has(7)) == (100, True)
    claims.release(7)
    claims.release(7)
    assert (claims.count(), claims.has(7)) == (99, False)
    assert claims.take(7)
