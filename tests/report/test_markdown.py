"""Blocks as Markdown."""

from __future__ import annotations

from normfold.report.blocks import Code, Column, Heading, Names, Paragraph, Table
from normfold.report.markdown import markdown
from report_samples import HOSTILE, SAMPLES

GOLDEN = """\
### a -\\> b

| outcome | count | time |
|---|---:|---|
| folded | 12 | 0.652x (0.648 to 0.657) |
| kept | 3 | - |

note: one note

- python: 3.13
- processor: Abacus

```text
  b  ...o................|....................  0.652x (0.648 to 0.657)
  c  ....................|......==o==.........  1.25x (1.2 to 1.3)
                         |                      | is a
```

a takes 1.5 ms (1.25 to 2)

Two of three.

**b takes less time: faster**

<details><summary>kept for one reason:</summary>

one: a sentence.

- bn1
- bn2
- and 7 more

</details>

```text
import b
b.load('b.json')
```
"""


def test_every_block() -> None:
    assert markdown(SAMPLES) == GOLDEN


def test_names_stay_in_their_cell_and_are_only_names() -> None:
    page = markdown((Heading(HOSTILE), Paragraph(HOSTILE), Table((Column("x"), Column("y")), ((HOSTILE, "a\nb"),))))
    assert "<script" not in page.replace("\\<", "")
    assert page.splitlines()[-1].replace("\\|", "").count("|") == 3
    assert r"a\\nb" in page
    assert "\x1b" not in page


def test_names_below_a_title_are_only_names() -> None:
    page = markdown((Names(HOSTILE, (HOSTILE,), (HOSTILE,)),))
    assert "<script" not in page.replace("\\<", "")
    assert page.count("<summary>") == page.count("</summary>") == 1


def test_a_fence_is_longer_than_any_in_the_code() -> None:
    assert markdown((Code(("```",)),)) == "````text\n```\n````\n"
