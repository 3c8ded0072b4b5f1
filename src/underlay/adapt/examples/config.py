"""What can be set of reading examples."""

from typing import Literal

from pydantic import Field

from underlay.config import Config

FormName = Literal["conversation", "preference", "judgement", "problem", "label", "tags", "question", "similar"]
Layout = Literal["json", "jsonl", "csv", "tsv", "parquet", "conll"]


class ExamplesConfig(Config):
    """Which files examples are read from, and as what."""

    source: tuple[str, ...] = ()
    """Files, folders, patterns of paths (`chats/*.jsonl`), or URLs that fsspec knows."""
    layout: Layout | None = None
    """How the files are laid out; by default as their endings say."""
    form: FormName | None = None
    """What the examples are: `conversation`, `preference`, `judgement`, `problem`, `label`, `tags`, `question` or
    `similar`; by default what their columns tell."""
    columns: dict[str, str] = Field(default={})
    """What the files call a column, by the name that a format knows it by: `{text: review, label: stars}`."""
    where: dict[str, str] = Field(default={})
    """Only records that have these values in these columns of the file: `{split: train}`."""
    worked: bool = False
    """Whether questions whose answers end in `#### 42` become conversations that show the way, not problems whose
    answers can be checked."""
    licence: str | None = Field(default=None, min_length=1, max_length=100)
    """What all of them are under; by default what a record, or the nearest licence file, says."""
    limit: int | None = Field(default=None, gt=0)
    """Read at most so many examples, the first."""
    max_record_bytes: int = Field(default=4 << 20, ge=1 << 10)
    """Larger records are left out."""
    max_file_bytes: int = Field(default=256 << 20, ge=1 << 10)
    """Larger JSON files are refused: they have to be in memory whole, those of JSONL do not."""
