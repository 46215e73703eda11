"""A page's address: read, written, and data, whoever wrote it."""

import json

import pytest
from browser.chromium import node
from test_explore import SAMPLE

from minqwen.errors import InputError
from minqwen.trace import Trace
from minqwen.widgets.address import checked
from minqwen.widgets.bundle import bundle

KEPT = {
    "token=12": {"selected": {"token": 12}, "token": 12},
    "layer=6": {"selected": {"layer": 6}},
    "layer=6,expert=0,token=0": {"selected": {"layer": 6, "expert": 0}, "token": 0},
    "tokens=3-20,order=by-load": {"selected": {"tokens": [3, 21]}, "order": "by load"},
    "all,colour=leading-class": {"selected": {}, "colour": "leading class"},
    "view=memory,head=4.3,probe=5,step=write,other": {
        "view": "memory", "head": [4, 3], "probe": 5, "step": "write", "other": True,
    },
    "find=%3Cb%3E%2C%20%3D%25%26%23%F0%9F%91%A9%E2%80%AE,embed": {
        "find": "<b>, =%&#👩\u202e", "embed": True,
    },
}  # fmt: skip
HOSTILE = [
    "", "#", ",,,", "=", "layer", "layer=", "layer=-1", "layer=1e3", "layer=0x6",
    "layer=1.5", "layer=9999999999", "layer=NaN", "expert=3<b>", "tokens=9-3",
    "tokens=3", "tokens=-3-9", "head=4", "head=99999.1", "order=By load", "find=%",
    "find=%FF", "view=<script>", "__proto__=1", "constructor=1", "all=1", "embed=yes",
    "layer=６", "x" * 3000, "token=1," * 1000, "order=" + "a" * 50, "hasOwnProperty",
]  # fmt: skip


def js(calls):
    script = f"console.log(JSON.stringify({calls}));"
    return json.loads(node(bundle("shared/address.mjs") + script))


def test_what_is_written_is_read_again():
    texts = json.dumps(list(KEPT))
    read, written = js(f"""[{texts}.map((text) => readAddress("#" + text)),
        {texts}.map((text) => readAddress(writeAddress(readAddress(text))))]""")
    assert read == written == list(KEPT.values())
    assert js("writeAddress({ selected: { tokens: [3, 21] }, token: 4 })") == (
        "tokens=3-20,token=4"
    )
    assert js('writeAddress({ selected: {}, token: 0, find: "", head: null })') == (
        "all,token=0"
    )


def test_what_is_not_of_its_form_is_left_out():
    assert js(f"{json.dumps(HOSTILE)}.map(readAddress)") == [{}] * len(HOSTILE)
    (long,) = js('[readAddress("find=" + "é".repeat(900))]')
    assert long == {"find": "é" * 200}
    assert js('readAddress("layer=6&token=zz&expert=9")')["selected"] == {
        "layer": 6, "expert": 9,
    }  # fmt: skip


@pytest.mark.parametrize("text, words", [
    ("layer=8", "no layer 8"), ("layer=0,expert=16", "no expert 16"),
    ("token=9999", "no token 9999"), ("tokens=0-9999", "no tokens 9999"),
    ("layer", "no part of an address"), ("<b>=1", "no part"), ("", "no part"),
    ("order=\x1b[31m", "no part"), ("layer=6;expert=9", "no part"),
])  # fmt: skip
def test_select_is_checked_before_a_page_is_made(run, tmp_path, text, words):
    page = tmp_path / "page.html"
    code, _, err = run("explore", SAMPLE, "--html", page, "--select", text or " ")
    assert code == 1 and words in err and err.count("\n") == 1 and not page.exists()


def test_select_is_what_the_page_reads():
    trace = Trace.load(SAMPLE)
    for text, traits in KEPT.items():
        if "other" not in text:
            assert js(f"readAddress({json.dumps(checked(text, trace))})") == traits
    assert checked("find=<b> </script>") == "find=%3Cb%3E%20%3C%2Fscript%3E"
    with pytest.raises(InputError, match="no layer 999"):
        checked("layer=999", trace)
