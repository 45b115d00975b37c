"""FR-28: files are read as UTF-8 whatever the platform's encoding is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dataloaders.toy import write_bert_vocabulary, write_json, write_lines

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, warnings
from pathlib import Path
from dataloaders.datasets.registry import default_files, read_examples
from dataloaders.datasets.spec import SPLITS
from modules.backbones.tokenizers import ChineseTokenizer, ClipTokenizer

warnings.filterwarnings("error", category=EncodingWarning, module=r"dataloaders\\.")
folder = Path(sys.argv[1])
for dataset in ("vatex", "chvtt"):
    for split in SPLITS:
        files = default_files(folder, dataset, split)
        captions = read_examples(dataset, split, language="chinese", files=files).captions
        assert list(captions) == ["\\u732b"], ascii(list(captions))
ids = ChineseTokenizer(str(folder / "bert")).encode("\\u732b", 3)[0].tolist()
assert ids == [2, 5, 3], ids
ClipTokenizer().encode("\\u732b", 8)
try:
    exec("open(sys.argv[0]).close()", {"__name__": "dataloaders.probe", "sys": sys})
except EncodingWarning:
    print("a bare open() is noticed")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the C locale is POSIX")
def test_chinese_files_in_the_c_locale(tmp_path: Path) -> None:
    (tmp_path / "vatex").mkdir()
    (tmp_path / "chvtt").mkdir()
    write_json(tmp_path / "vatex/vatex_data.json", {"v": {"chCap": ["猫"]}})
    for name in ("train", "val", "test"):
        (tmp_path / f"vatex/{name}_list.txt").write_text("v\n", "utf-8")
    info = {"docid": "v", "title": "猫", "tag": "动物"}
    query = {"query": "猫", "videolist": [{"docid": "v"}]}
    write_lines(tmp_path / "chvtt/videoinfo_bilingual.json", [info])
    write_lines(tmp_path / "chvtt/query_data_train_bilingual.json", [query])
    write_lines(tmp_path / "chvtt/query_data_val_bilingual.json", [query])
    write_bert_vocabulary(tmp_path / "bert", ["猫"])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "warn_default_encoding", str(script), str(tmp_path)]
    result = subprocess.run(
        command, env=os.environ | locale, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "a bare open() is noticed" in result.stdout
