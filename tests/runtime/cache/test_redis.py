from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lineside_hub.identity.authority import Authority
from lineside_runtime.cache.level import Level
from lineside_runtime.cache.redis_ import CONNECTIONS, PREFIX, RedisStore
from lineside_runtime.errors import ConfigError
from tests.peers import FaultProxy, RedisServer, free_port, wait_for
from tests.peers.redis_server import running_server
from tests.runtime.cache.kept import FAST, entry_of, found, is_right, key_of, opened

TIMEOUT_S = 5.0
"""Of a server that answers, on a machine that is busy with something else."""

HANG_S = 1.0
"""Of a server that hangs, until it is given up."""


class CountingStore(RedisStore):
    """Counts the look-ups that reach it."""

    reads = 0

    def read(self, key: bytes) -> bytes | None:
        self.reads += 1
        return super().read(key)


def a_store(*urls: str, ttl_s: float | None = None, timeout_s: float = TIMEOUT_S) -> CountingStore:
    return CountingStore(urls, timeout_s=timeout_s, ttl_s=ttl_s, pauses=FAST)


def fill(level: Level, numbers: range, floats: int = 1000) -> None:
    for number in numbers:
        level.put(key_of(number), entry_of(number, floats))
    assert level.flush(60)


def takes(level: Level, number: int) -> bool:
    level.put(key_of(number), entry_of(number))
    level.flush(60)
    return found(level, range(number, number + 1)) == [number]


def test_hosts_share_results(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url)) as one, opened(a_store(redis_server.url)) as other:
        fill(one, range(5))
        assert found(other, range(6)) == [0, 1, 2, 3, 4]
        stats = other.stats
        assert (stats.name, stats.up, stats.hits, stats.misses, stats.errors) == ("redis", True, 5, 1, 0)
        assert one.stats.stored == 5


def test_a_large_result_comes_back_whole(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url), queue_bytes=64 << 20) as level:
        fill(level, range(1, 3), floats=1_000_000)
        assert found(level, range(1, 3)) == [1, 2]
        fill(level, range(3, 4), floats=5_000_000)
        assert found(level, range(3, 4)) == []
        assert level.stats.drops == 1


def test_a_result_is_forgotten_at_its_time(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url, ttl_s=30)) as level:
        fill(level, range(1))
        name = PREFIX.decode() + key_of(0).hex()
        assert 25_000 < int(redis_server.ask("PTTL", name)) <= 30_000
        redis_server.ask("PEXPIRE", name, 1)
        wait_for(lambda: found(level, range(1)) == [])
    with opened(a_store(redis_server.url)) as level:
        fill(level, range(1))
        assert redis_server.ask("PTTL", name) == "-1"


def test_what_somebody_else_wrote_there_is_a_miss_and_is_replaced(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url)) as level:
        fill(level, range(3))
        redis_server.ask("SET", PREFIX.decode() + key_of(0).hex(), "nonsense")
        redis_server.ask("APPEND", PREFIX.decode() + key_of(1).hex(), "more")
        redis_server.ask("DEL", PREFIX.decode() + key_of(2).hex())
        redis_server.ask("LPUSH", PREFIX.decode() + key_of(2).hex(), "list")
        assert found(level, range(3)) == []
        assert (level.stats.errors, level.stats.up) == (3, True)
        fill(level, range(3))
        assert found(level, range(3)) == [0, 1, 2]


def test_a_server_that_dies_costs_nothing_but_hits_and_is_used_again(redis_server: RedisServer) -> None:
    store = a_store(redis_server.url)
    with opened(store) as level:
        fill(level, range(3))
        redis_server.kill()
        assert found(level, range(3)) == []
        wait_for(lambda: not level.stats.up)
        level.put(key_of(3), entry_of(3))
        assert level.stats.drops >= 1
        reads = store.reads
        for _ in range(1000):
            level.get(key_of(0))
        assert store.reads == reads, "nobody asks a server that is down"
        redis_server.start()
        wait_for(lambda: level.stats.up)
        assert found(level, range(3)) == []
        assert takes(level, 4)


def test_a_server_that_hangs_holds_one_call_up(redis_server: RedisServer) -> None:
    store = a_store(redis_server.url, timeout_s=HANG_S)
    with opened(store) as level:
        fill(level, range(3))
        redis_server.freeze()
        reads = store.reads
        for number in range(100):
            assert level.get(key_of(number % 3)) is None
        assert store.reads <= reads + 1, "nobody else waits for it"
        assert not level.stats.up
        redis_server.thaw()
        wait_for(lambda: level.stats.up)
        for _ in range(3):  # and no late answer is taken for another one's
            assert found(level, range(3)) == [0, 1, 2]


def test_pauses_grow_while_a_server_is_away(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url)) as level:
        redis_server.kill()
        level.get(key_of(0))
        wait_for(lambda: level._failures >= 4)
        assert not level.stats.up
        assert "127.0.0.1" in level.stats.reason


def test_a_session_starts_without_a_server_and_finds_it_later(tmp_path: Path) -> None:
    port = free_port()
    with opened(a_store(f"redis://127.0.0.1:{port}")) as level:
        assert not level.stats.up
        assert level.get(key_of(0)) is None
        server = RedisServer(tmp_path / "late", port=port)
        try:
            server.start()
            wait_for(lambda: level.stats.up)
            assert takes(level, 0)
        finally:
            server.kill()


def test_a_connection_closed_for_being_idle_is_made_again_without_a_pause(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url)) as level:
        fill(level, range(3))
        redis_server.ask("CLIENT", "KILL", "TYPE", "normal")
        found(level, range(3))
        wait_for(lambda: found(level, range(3)) == [0, 1, 2])
        assert level.stats.up
        assert level._failures == 0


def test_a_network_that_cuts_and_flips_bits_is_never_wrong(
    redis_server: RedisServer, fault_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = fault_proxy(redis_server.port)
    with opened(a_store(f"redis://127.0.0.1:{proxy.port}", timeout_s=HANG_S), queue_bytes=8 << 20) as level:
        fill(level, range(20), floats=5000)
        proxy.cut_every(50_000)
        for _ in range(3):
            found(level, range(20))
            proxy.flip(3)
        proxy.cut_every(None)
        proxy.stall()
        found(level, range(20))
        proxy.flow()
        wait_for(lambda: found(level, range(20)) == list(range(20)))


def test_a_full_server_still_answers(tmp_path: Path) -> None:
    options = ("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
    with (
        running_server(tmp_path / "small", *options) as server,
        opened(a_store(server.url), queue_bytes=64 << 20) as level,
    ):
        number = 0
        while not level.stats.errors:
            fill(level, range(number, number + 1), floats=50_000)
            number += 1
        assert found(level, range(3)) == [0, 1, 2]
        assert (level.stats.up, level.stats.drops) == (True, 1)
        assert "maxmemory" in level.stats.reason
        server.ask("CONFIG", "SET", "maxmemory", "100mb")
        wait_for(lambda: takes(level, number))


def test_a_password_and_a_database_are_used(tmp_path: Path) -> None:
    with running_server(tmp_path / "locked", "--user", "default", "on", "nopass", "~*", "&*", "+@all") as server:
        server.ask("ACL", "SETUSER", "line", "on", ">secret", "~*", "+@all")
        server.ask("ACL", "SETUSER", "default", "off")
        with opened(a_store(f"redis://line:secret@127.0.0.1:{server.port}/3")) as level:
            assert takes(level, 1)
        with opened(a_store(f"redis://line:wrong@127.0.0.1:{server.port}")) as level:
            assert not level.stats.up
            assert "wrong" not in level.stats.reason


def test_tls_is_checked(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", site="t0")
    own = authority.broker(["localhost", "127.0.0.1"])
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(own.certificate), "--tls-key-file", str(own.key))
    with running_server(tmp_path / "tls", *options, "--tls-ca-cert-file", str(own.ca), "--tls-auth-clients", "no"):
        with opened(a_store(f"rediss://127.0.0.1:{port}?ssl_ca_certs={own.ca}")) as level:
            assert takes(level, 1)
        with opened(a_store(f"rediss://127.0.0.1:{port}")) as level:
            assert not level.stats.up
            assert "CERTIFICATE" in level.stats.reason.upper()


def test_a_unix_socket_serves(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with running_server(tmp_path / "unix", "--unixsocket", str(path)), opened(a_store(f"unix://{path}")) as level:
        assert takes(level, 1)


def test_many_threads_each_get_their_own_answers(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url)) as level:
        fill(level, range(20))
        wrong: list[int] = []

        def work(seed: int) -> None:
            for step in range(200):
                number = (seed * 7 + step) % 20
                entry = level.get(key_of(number))
                if entry is None or not is_right(entry, number):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert (level.stats.hits, level.stats.errors) == (200 * CONNECTIONS, 0)


def test_more_threads_than_connections_get_more_connections(redis_server: RedisServer) -> None:
    with opened(a_store(redis_server.url)) as level:
        fill(level, range(1))
        start = threading.Barrier(CONNECTIONS + 4)
        missed: list[int] = []

        def work() -> None:
            start.wait()
            missed.extend(step for step in range(50) if level.get(key_of(0)) is None)

        def all_hit() -> bool:
            missed.clear()
            threads = [threading.Thread(target=work) for _ in range(CONNECTIONS + 4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return not missed

        wait_for(all_hit)
        assert level.stats.errors == 0


def test_a_wrong_address_is_told() -> None:
    with pytest.raises(ConfigError):
        a_store("redis://h:port")


@pytest.mark.parametrize(
    "answer", [b":1\r\n", b"$x\r\n", b"*-7\r\n", b"\xff\xfe\r\n", b"-\xff\r\n", b"$-1\r\n", b"+\r\n", b""]
)
def test_a_server_of_another_protocol_is_off_and_breaks_nothing(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answering, args=(server, answer), daemon=True).start()
        with opened(a_store(f"redis://127.0.0.1:{server.getsockname()[1]}")) as level:
            for number in range(3):
                assert level.get(key_of(number)) is None
                level.put(key_of(number), entry_of(number))
            assert level._thread.is_alive()


def _answering(server: socket.socket, answer: bytes) -> None:
    """Says that it is Redis, and then always the same to each look-up."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_converse, args=(connection, answer), daemon=True).start()


def _converse(connection: socket.socket, answer: bytes) -> None:
    with contextlib.suppress(OSError), connection:
        while asked := connection.recv(65536):
            if b"PING" in asked:
                connection.sendall(b"+PONG\r\n")
            elif b"SLOTS" in asked:
                connection.sendall(b"-ERR This instance has cluster support disabled\r\n")
            elif b"CLIENT" in asked:
                connection.sendall(b"+OK\r\n")
            else:
                connection.sendall(answer)
                if not answer:
                    return


# A cluster.

MOVED_SLOTS = 5000
"""Not all that the first node has: a master without slots becomes a replica."""


def test_a_cluster_is_found_from_one_address_and_holds_everything(redis_cluster: list[RedisServer]) -> None:
    with opened(a_store(redis_cluster[0].url)) as level:
        fill(level, range(60))
        assert found(level, range(60)) == list(range(60))
        sizes = [int(server.ask("DBSIZE")) for server in redis_cluster]
        assert sum(sizes) == 60
        assert min(sizes) > 5
    with opened(a_store(*(server.url for server in redis_cluster))) as level:
        assert found(level, range(60)) == list(range(60))


def test_where_one_node_of_three_is_down_the_others_go_on(redis_cluster: list[RedisServer]) -> None:
    with opened(a_store(redis_cluster[0].url)) as level:
        fill(level, range(60))
        redis_cluster[0].kill()
        found(level, range(60))
        wait_for(lambda: 20 < len(found(level, range(60))) < 60)
        assert level.stats.up
        errors = level.stats.errors
        assert errors >= 1
        fill(level, range(60, 90))
        assert level.stats.drops > 0
        assert 0 < len(found(level, range(60, 90))) < 30
        redis_cluster[0].start()
        wait_for(lambda: _all_again(level))


def _all_again(level: Level) -> bool:
    fill(level, range(60))
    return found(level, range(60)) == list(range(60))


def test_where_one_node_hangs_the_others_go_on(redis_cluster: list[RedisServer]) -> None:
    with opened(a_store(redis_cluster[1].url, timeout_s=HANG_S)) as level:
        fill(level, range(60))
        redis_cluster[2].freeze()
        wait_for(lambda: 20 < len(found(level, range(60))) < 60)
        assert level.stats.up
        redis_cluster[2].thaw()
        wait_for(lambda: _all_again(level))


def test_a_slot_that_moves_is_a_miss_and_then_found(redis_cluster: list[RedisServer]) -> None:
    with opened(a_store(redis_cluster[0].url)) as level:
        fill(level, range(60))
        for server in redis_cluster:  # most of what the first one had belongs to the second now
            server.ask("FLUSHALL")
        first, second = redis_cluster[:2]
        identity = second.ask("CLUSTER", "MYID")
        for server in (second, first):
            server.tell(f"CLUSTER SETSLOT {slot} NODE {identity}" for slot in range(MOVED_SLOTS))
        wait_for(lambda: _all_again(level))
        assert level.stats.up


def test_several_servers_that_are_no_cluster_are_refused(redis_server: RedisServer, tmp_path: Path) -> None:
    with (
        running_server(tmp_path / "other") as other,
        pytest.raises(ConfigError) as caught,
        opened(a_store(redis_server.url, other.url)),
    ):
        pass
    assert "cluster" in str(caught.value)
