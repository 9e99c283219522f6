"""URLs of etcd and Redis: what they say, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from backendai_jupyter.cluster.urls import (
    EtcdAddress,
    RedisAddress,
    Tls,
    read_etcd_url,
    read_redis_url,
)
from backendai_jupyter.errors import InvalidInput
from tests.certificates import Certificates, make_certificates


@pytest.fixture
def pem(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("etcd://h", EtcdAddress(("h:2379",), "backendai/")),
        ("etcd://h:1/", EtcdAddress(("h:1",), "backendai/")),
        ("etcd://a,b:2,c/x/y", EtcdAddress(("a:2379", "b:2", "c:2379"), "x/y/")),
        ("etcd://[::1]:7", EtcdAddress(("[::1]:7",), "backendai/")),
        ("etcd://[::1]", EtcdAddress(("[::1]:2379",), "backendai/")),
        ("etcd://u:p%40%2F@h/x", EtcdAddress(("h:2379",), "x/", "u", "p@/")),
        ("etcds://h", EtcdAddress(("h:2379",), "backendai/", tls=Tls())),
    ],
)
def test_etcd_urls(url: str, address: EtcdAddress) -> None:
    assert read_etcd_url(url) == address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress("h", 6379, "", 0, "backendai/")),
        ("redis://h:1/3?prefix=x", RedisAddress("h", 1, "", 3, "x/")),
        ("redis://:p%3A@h", RedisAddress("h", 6379, "", 0, "backendai/", None, "p:")),
        ("redis://u:p@h", RedisAddress("h", 6379, "", 0, "backendai/", "u", "p")),
        ("rediss://h", RedisAddress("h", 6379, "", 0, "backendai/", tls=Tls())),
        ("unix:///run/r.sock?db=2", RedisAddress("", 0, "/run/r.sock", 2, "backendai/")),
        ("unix://u:p@/r.sock", RedisAddress("", 0, "/r.sock", 0, "backendai/", "u", "p")),
    ],
)
def test_redis_urls(url: str, address: RedisAddress) -> None:
    assert read_redis_url(url) == address


def test_files_of_tls(pem: Certificates) -> None:
    options = f"cacert={pem.ca}&cert={pem.cert}&key={pem.key}"
    tls = Tls(pem.ca, pem.cert, pem.key)
    assert read_etcd_url(f"etcds://h?{options}").tls == tls
    assert read_redis_url(f"rediss://h?{options}").tls == tls


def test_a_password_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p w\n")
    assert read_etcd_url(f"etcd://u@h?passwordfile={file}").password == "p w"
    assert read_redis_url(f"redis://h?passwordfile={file}").password == "p w"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("h:2379", "begins with none of etcd, etcds; like etcd://host:2379/prefix"),
        ("http://h", "begins with none of"),
        ("etcd://", "a host is missing"),
        ("etcd://a,,b", "a host is missing"),
        ("etcd://h:x", "the port of h is no number from 1 to 65535"),
        ("etcd://h:70000", "the port of h is no number from 1 to 65535"),
        ("etcd://[::1", "is no URL"),
        ("etcd://u@h", "there is no password for user u"),
        ("etcd://:secret@h", "there is a password but no user"),
        ("etcd://u:sec#ret@h", "has a '#'; in a password it is written %23"),
        ("etcd://h?colour=red", "has no option 'colour'"),
        ("etcd://h?cacert=", "has an empty cacert"),
        ("etcd://h?cacert=/x", "cacert is for etcds:// and rediss:// only"),
        ("etcds://h?cacert=/no/such", "there is no cacert /no/such"),
        ("etcds://h?cert=/x", "cert and key go together"),
        ("etcd://u@h?passwordfile=/no/such", "cannot read passwordfile /no/such"),
        ("etcd://u:secret@h?passwordfile=/x", "has both a password and a passwordfile"),
    ],
)
def test_what_is_wrong_with_an_etcd_url(url: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read_etcd_url(url, what="BackendAI.etcd_url")
    assert problem in str(refusal.value)
    assert refusal.value.field == "BackendAI.etcd_url"
    assert "sec" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("etcd://h", "begins with none of redis, rediss, unix"),
        ("redis://", "a host is missing"),
        ("redis://h/x", "the database is no number from 0"),
        ("redis://u@h", "there is no password for user u"),
        ("redis://u:secret@h:port", "the port of h is no number"),
        ("unix://run/redis.sock", "with three slashes"),
        ("unix://", "with three slashes"),
        ("unix:///r.sock?cacert=/x", "cacert is for"),
    ],
)
def test_what_is_wrong_with_a_redis_url(url: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read_redis_url(url)
    assert problem in str(refusal.value)
    assert refusal.value.field == "redis_url"
    assert "secret" not in str(refusal.value)


def test_names_and_reprs_tell_no_password() -> None:
    etcd, redis = read_etcd_url("etcd://u:secret@a,b"), read_redis_url("redis://u:secret@h")
    assert (etcd.name, redis.name) == ("etcd at a:2379, b:2379", "Redis at h:6379")
    assert "secret" not in repr(etcd) + repr(redis)
