"""Which backbone is asked for, and from where."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError
from common.names import is_path
from modules.backbones.hub import model_file, model_folder

OPEN_CLIP_FILE = "open_clip_config.json"
HUB_PREFIX = "hf-hub:"
_PREFIXES = (HUB_PREFIX, "local-dir:")
DEFAULT_WEIGHTS = "openai"  # of --clip_weights


@dataclass(frozen=True)
class Request:
    """What `build_backbone` needs to know.

    `name`: --clip_model, a name of open_clip's, a JSON file, `hf-hub:owner/model`, or a folder as the hub has
    them. `weights`: --clip_weights, an open_clip tag, a file, or "none" for random weights; a folder and a
    model of the hub have their own, which the default of the flag stands for.
    `pretrained`: whether weights are wanted at all; a checkpoint that replaces all of them makes that
    needless, but `weights` still says which preprocessing they need. `tokenizer`: a name or folder in the
    place of the model's own. `image_size` and `patch_dropout` change the image tower; None and 0: as it is.
    `cache_dir` is where downloads are kept; None: the caches of the libraries.
    """

    name: str
    weights: str = "none"
    pretrained: bool = True
    tokenizer: str | None = None
    image_size: int | None = None
    patch_dropout: float = 0.0
    cache_dir: str | None = None
    allow_download: bool = True

    @property
    def flag(self) -> str:
        """The flag and its value, for messages."""
        return f"--clip_model {self.name}"

    @property
    def place(self) -> str:
        """The folder, or the repository on the hub, that the name means."""
        name = self.name
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        return name

    @property
    def is_place(self) -> bool:
        """Whether the name is that of a folder or of a repository on the hub."""
        if self.name.endswith(".json"):
            return False
        return self.name.startswith(_PREFIXES) or model_folder(self.name) is not None

    @property
    def has_own_weights(self) -> bool:
        """Whether the weights are those of the folder or repository."""
        return self.is_place and self.pretrained and self.weights == DEFAULT_WEIGHTS

    def has_open_clip_config(self) -> bool:
        """Whether the folder or repository is in open_clip's form, not in transformers'."""
        found = model_file(
            self.place, OPEN_CLIP_FILE, cache_dir=self.cache_dir, allow_download=self.allow_download
        )
        return found is not None

    def check_weights(self) -> None:
        """Raise `UserError` for a tag where the model is a folder or repository, which has no tags."""
        if self.is_place and self.weights not in (DEFAULT_WEIGHTS, "none") and not is_path(self.weights):
            raise UserError(
                f"--clip_weights {self.weights}: {self.flag} has its own weights; leave the flag out, or "
                "give a file or 'none'"
            )
