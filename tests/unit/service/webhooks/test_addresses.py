"""Webhooks reach public addresses and nothing else, however an address is written."""

import pytest

from service.webhooks.addresses import Addresses, AddressRefused, is_allowed


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(address, allow_private=False)
    assert is_allowed(address, allow_private=True)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.127.255.254"),
        *("::1", "fc00::1", "fd12:3456::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1"),
    ],
)
def test_private_addresses_are_for_operators_who_allow_them(address: str) -> None:
    assert not is_allowed(address, allow_private=False)
    assert is_allowed(address, allow_private=True)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "::", "169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1"),
        *("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"),
        *("::ffff:169.254.169.254", "::ffff:0.0.0.0", "64:ff9b::a9fe:a9fe", "fec0::1", "::7f00:1", "4000::1"),
    ],
)
def test_metadata_of_clouds_and_what_is_no_host_is_never_allowed(address: str) -> None:
    assert not is_allowed(address, allow_private=False)
    assert not is_allowed(address, allow_private=True)


PRIVATE = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"),
    *("[::ffff:7f00:1]", "localhost", "LOCALHOST", "localhost.", "api.localhost", "10.0.0.7", "192.168.0.1"),
]


@pytest.mark.parametrize("host", [*PRIVATE, "169.254.169.254", "0.0.0.0", "0", "[::]"])
def test_a_url_with_a_private_host_is_refused_and_the_setting_named(host: str) -> None:
    with pytest.raises(AddressRefused, match="FETTLE_WEBHOOK_ALLOW_PRIVATE"):
        Addresses(allow_private=False).check_url(f"https://{host}:8443/hook")


@pytest.mark.parametrize("host", PRIVATE)
def test_an_operator_may_allow_private_hosts_and_plain_http(host: str) -> None:
    Addresses(allow_private=True).check_url(f"http://{host}:8443/hook")
    with pytest.raises(AddressRefused):
        Addresses(allow_private=True).check_url("http://169.254.169.254/latest/meta-data")


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com", "https://example.com:8443/a/b?c=d", "HTTPS://EXAMPLE.com/", "https://münchen.de/ü"),
        *("https://a_b.example.com/", "https://1e100.net/", "https://[2606:4700:4700::1111]:1/x", "https://8.8.8.8/"),
    ],
)
def test_any_public_https_url_is_taken(url: str) -> None:
    Addresses(allow_private=False).check_url(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "https"),
        ("example.com", "https"),
        ("//example.com/x", "https"),
        ("http://example.com/", "https"),
        ("ftp://example.com/", "https"),
        ("file:///etc/passwd", "https"),
        ("https:///x", "host"),
        ("https://exa mple.com/", "URL"),
        ("https://example.com/a b", "URL"),
        ("https://example.com/\n", "URL"),
        ("https://example.com/\0", "URL"),
        ("https://example.com/\ud800", "URL"),
        ("https://a%2eb/", "host"),
        ("https://a..b/", "host"),
        (f"https://{'a' * 64}.com/", "host"),
        (f"https://{'a.' * 127}com/", "host"),
        ("https://[fe80::1%25eth0]/", "host"),
        ("https://0177.0.0.1/", "URL"),
        ("https://①②⑦.0.0.1/", "URL"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:x/", "URL"),
        ("https://user:secret@example.com/", "password"),
        ("https://user@example.com/", "password"),
        ("https://127.0.0.1\\@example.com/", "password"),
        ("https://example.com/#part", "fragment"),
    ],
)
def test_what_is_no_url_of_a_receiver_is_refused_with_the_reason(url: str, words: str) -> None:
    with pytest.raises(AddressRefused, match=words):
        Addresses(allow_private=False).check_url(url)
