"""What this host's kernel may lack, VLANs, dummies, ipvlan and SCTP: guest_networks.py in a virtual machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import Guest, GuestUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(960)]
MODULES = ("bridge", "veth", "8021q", "dummy", "macvlan", "ipvlan", "sctp", "nf_tables", "nft_chain_nat", "nft_ct",
           "nft_nat", "nft_masq", "nft_fib_inet", "nft_meta_bridge")


def test_what_kernels_may_lack(tmp_path: Path) -> None:
    try:
        guest = Guest(tmp_path)
    except GuestUnavailable as error:
        pytest.skip(str(error))
    guest.add_package("msgspec")
    guest.add_program(str(next(Path("/usr/lib").glob("*/libnftables.so.1"))))
    for module in MODULES:
        guest.add_module(module)
    result = guest.run("PYTHONPATH=$PYTHONPATH:/barque python -S tests/kernel/guest_networks.py", timeout=900)
    assert result.code == 0 and "all is well" in result.output, result.output
