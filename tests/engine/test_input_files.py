from engine.config import Config
from engine.input_files import bank_files, evaluation_files, training_files


def test_split_chooses_the_lists_of_training_test_and_querybank() -> None:
    config = Config(do_train=True, dataset="msrvtt", language="english", data_dir="data", split="full")
    names = [
        files.list and files.list.name for files in (training_files(config), evaluation_files(config, "test"))
    ]
    assert names == ["MSRVTT_train.full.csv", "MSRVTT_test.full.csv"]
    bank = bank_files(config).list
    assert bank is not None and bank.name == "MSRVTT_train.full.csv"
    assert evaluation_files(config, "val").list is None  # the official validation videos, as by default


def test_a_flag_for_a_list_wins_and_other_data_sets_keep_theirs() -> None:
    config = Config(do_train=True, dataset="vatex", data_dir="data", split="test1k5", train_list="mine.txt")
    train, test = training_files(config).list, evaluation_files(config, "test").list
    assert train is not None and train.name == "mine.txt"
    assert test is not None and test.name == "test1k5_sec_list.txt"
    config = Config(do_pretrain=True, dataset="chvtt", language="english", data_dir="data", split="full")
    assert training_files(config).list is None
    test = evaluation_files(config, "test").list
    assert test is not None and test.as_posix() == "data/msrvtt/MSRVTT_test.full.csv"
