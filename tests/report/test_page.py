import base64
import hashlib
import re

from graphnn_unet.report.page import bullets, commands, document, json_block, png_image, table

EVIL = "</td><script>alert('x')</script>\"'"


def test_no_request_and_no_script_but_its_own():
    text = document("t", ["<p>x</p>"], script="let a = 1;")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|\*", policy)
    code = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(code) == 1
    assert code[0].endswith("let a = 1;")
    wanted = base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{wanted}'" in policy


def test_markup_in_texts_is_text():
    parts = [table([["case", EVIL], [EVIL, "1"]], text_columns={EVIL}), bullets([EVIL], ""),
             commands([EVIL], EVIL), png_image(b"x", EVIL, EVIL)]  # fmt: skip
    text = document(EVIL, parts, source=EVIL)
    assert text.count("<script>") == 1
    assert "alert('x')" not in text
    assert text.count("alert(&#x27;x&#x27;)") == 10


def test_data_end_no_block():
    block = json_block("facts", {EVIL: [EVIL]})
    assert block.count("<") == 2
    assert block.endswith("</script>")


def test_marked_rows_and_long_tables():
    rows = [["case", "n"], *([f"c{n}", str(n)] for n in range(30))]
    text = table(rows, marked={2})
    assert text.count("<tr class='marked'>") == 1
    assert "<tr class='marked'><td>c2</td>" in text
    assert "wide long" in text
    assert "long" not in table(rows[:5])


def test_nothing_wrong_is_said():
    assert bullets([], "All is well.") == "<p class='fine'>All is well.</p>"
