"""The words of the page, in the language of the model. Messages of the search itself are English."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace


@dataclass(frozen=True)
class Words:
    """All texts. `{...}` is filled in; "one" is the form for a single video."""

    lang: str
    title: str
    intro: str
    intro_one: str
    query: str
    placeholder: str
    search: str
    options: str
    exclude: str
    exclude_placeholder: str
    top: str
    frame_weight: str
    frame_weight_info: str
    top_frames: str
    top_frames_info: str
    hint: str
    no_other: str
    like: str
    without: str
    count: str
    count_one: str
    results: str
    score: str
    similar: str
    similar_to: str
    copies: str
    play: str
    play_from: str
    missing: str
    frames_only: str
    file: str
    uploading: str
    remove_file: str
    upload_failed: str
    stale: str
    player: str
    close: str
    moments: str
    cannot_play: str
    download: str
    no_answer: str
    busy: str
    missing_now: str
    zero_shot: str
    trained: str


WORDS = {
    "english": Words(
        lang="en",
        title="Video search",
        intro="{videos} videos, searched in English",
        intro_one="1 video, searched in English",
        query="What the video should show",
        placeholder="What should the video show?",
        search="Search",
        options="Options",
        exclude="What the video should not show",
        exclude_placeholder="but not: what the video should not show",
        top="Videos to show",
        frame_weight="Frame weight",
        frame_weight_info="weight of the best frames relative to the whole video",
        top_frames="Top frames",
        top_frames_info="how many frames of a video count",
        hint="Search by words, a picture or a clip. Results play from their best moment.",
        no_other="No other video in the index.",
        like="Like {name}",
        without="{title}, not {unwanted}",
        count="{shown} of {videos} videos, {seconds} s",
        count_one="{shown} of 1 video, {seconds} s",
        results="results",
        score="score",
        similar="similar",
        similar_to="videos like {name}",
        copies="also {names}",
        play="play {name}",
        play_from="play {name} from {moment}",
        missing="file is missing",
        frames_only="only frames are stored",
        file="Picture or clip",
        uploading="Uploading {name}",
        remove_file="remove the file",
        upload_failed="The upload failed: {reason}",
        stale="The query or an option has changed since this search. Press Search.",
        player="player",
        close="close the player",
        moments="Moments that fit, best first:",
        cannot_play="This browser cannot play the format of this video.",
        download="Download the file",
        no_answer="The server does not answer. Is the program still running?",
        busy="The server is busy. Try again in a moment.",
        missing_now="The file of this video is missing now.",
        zero_shot="zero-shot",
        trained="trained",
    ),
    "chinese": Words(
        lang="zh-CN",
        title="视频搜索",
        intro="共 {videos} 个视频,用中文搜索",
        intro_one="共 1 个视频,用中文搜索",
        query="视频中应出现的内容",
        placeholder="想找什么样的视频?",
        search="搜索",
        options="选项",
        exclude="视频中不应出现的内容",
        exclude_placeholder="排除:视频中不应出现的内容",
        top="显示的视频数",
        frame_weight="帧权重",
        frame_weight_info="最佳帧相对于整个视频的权重",
        top_frames="最佳帧数",
        top_frames_info="每个视频计入得分的帧数",
        hint="可用文字、图片或视频片段搜索。结果从最匹配的时刻开始播放。",
        no_other="索引中没有其他视频。",
        like="与 {name} 相似的视频",
        without="{title},不含 {unwanted}",
        count="{videos} 个视频中的 {shown} 个,{seconds} 秒",
        count_one="1 个视频中的 {shown} 个,{seconds} 秒",
        results="搜索结果",
        score="得分",
        similar="相似",
        similar_to="与 {name} 相似的视频",
        copies="相同文件:{names}",
        play="播放 {name}",
        play_from="从 {moment} 开始播放 {name}",
        missing="文件缺失",
        frames_only="只存有视频帧",
        file="图片或视频片段",
        uploading="正在上传 {name}",
        remove_file="移除文件",
        upload_failed="上传失败:{reason}",
        stale="搜索后查询或选项已更改,请重新搜索。",
        player="播放器",
        close="关闭播放器",
        moments="匹配的时刻,最佳在前:",
        cannot_play="此浏览器无法播放该视频的格式。",
        download="下载文件",
        no_answer="服务器没有响应。程序是否仍在运行?",
        busy="服务器繁忙,请稍后再试。",
        missing_now="该视频的文件现在找不到了。",
        zero_shot="零样本",
        trained="已训练",
    ),
}
WORDS["bilingual"] = replace(
    WORDS["english"],
    intro="{videos} videos, searched in English or Chinese (用英文或中文搜索)",
    intro_one="1 video, searched in English or Chinese (用英文或中文搜索)",
)
_FOR_SCRIPT = (
    *("lang", "title", "uploading", "remove_file", "upload_failed", "player", "close", "moments"),
    *("cannot_play", "download", "no_answer", "busy", "missing_now"),
)


def script_words(words: Words) -> dict[str, str]:
    """The words that the script of the page needs."""
    return {name: text for name, text in asdict(words).items() if name in _FOR_SCRIPT}


assert set(_FOR_SCRIPT) <= {field.name for field in fields(Words)}
