"""Text as it is written, token by token: whole characters, up to an end or a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from ebm.tasks.text.tokenizers import Tokenizer

Finish: TypeAlias = Literal["end", "stop", "length"]  # an end-of-text, a stop string, or no more tokens were asked for
KEPT = 16  # tokens: a character has at most four bytes, so what is decoded behind four tokens does not depend on what is left out


class Decoder:
    """Decodes what follows a prompt as it comes, in whole characters.

    Joined, the pieces are what decoding everything at once gives. A token costs the decoding of a
    few last ones, however long the text has grown.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.ids = [token for token in prompt if token != tokenizer.end]
        self.text = tokenizer.decode(self.ids)
        self.said = len(self.text)

    def push(self, token: int) -> str:
        """Takes a token, and returns what can be said since."""
        if len(self.ids) >= 2 * KEPT:
            recent = self.tokenizer.decode(self.ids[-KEPT:])
            pending = len(self.text) - self.said
            if recent[-pending - 1 :] == self.text[-pending - 1 :]:
                self.ids, self.text, self.said = self.ids[-KEPT:], recent, len(recent) - pending
        self.ids.append(token)
        self.text = self.tokenizer.decode(self.ids)
        return self._say(self.text[:-3] + self.text[-3:].rstrip("\ufffd"))  # three bytes may be the beginning of a character

    def rest(self) -> str:
        """Returns what was held back, once no more tokens come."""
        return self._say(self.text)

    def _say(self, text: str) -> str:
        piece = text[self.said :]
        self.said += len(piece)
        return piece


class Continuation:
    """What is written after a prompt: its text so far, and why it ended.

    Arguments:
        tokenizer: what decodes tokens.
        prompt: ids.
        stop: texts that end it; the first to be complete is left out, with all that follows.

    Raises:
        ValueError: a stop string is empty.

    >>> from ebm.tasks.text.tokenizers import Bytes
    >>> row = Continuation(Bytes(), [65], stop=["\\n\\n"])
    >>> [row.push(token) for token in b"b\\nc\\n\\nd"], row.text, row.finish
    (['b', '', '\\nc', '', '', ''], 'b\\nc', 'stop')
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        if "" in stop:
            raise ValueError("stop='' would end every text before it begins: leave it out")
        self.decoder, self.stop = Decoder(tokenizer, prompt), tuple(stop)
        self.text, self.held = "", ""  # what was said, and what may be the beginning of a stop string
        self.finish: Finish | None = None

    def push(self, token: int) -> str:
        """Takes a token, and returns what can be said since; nothing once it has ended."""
        if self.finish is not None:
            return ""
        if token == self.decoder.tokenizer.end:
            return self.close("end")
        return self._take(self.decoder.push(token))

    def close(self, finish: Finish = "length") -> str:
        """Ends the text where it has not ended yet, and returns what was held back."""
        if self.finish is not None:
            return ""
        piece = self._take(self.decoder.rest())
        if self.finish is None:
            self.finish = finish
            piece, self.held, self.text = piece + self.held, "", self.text + self.held
        return piece

    def _take(self, piece: str) -> str:
        self.held += piece
        # By where they end: so a text does not depend on how many characters a token has.
        found = [(place + len(each), place) for each in self.stop if (place := self.held.find(each)) >= 0]
        if found:
            piece, self.held, self.finish = self.held[: min(found)[1]], "", "stop"
        else:
            sizes = (size for each in self.stop for size in range(1, len(each)) if self.held.endswith(each[:size]))
            ready = len(self.held) - max(sizes, default=0)
            piece, self.held = self.held[:ready], self.held[ready:]
        self.text += piece
        return piece


def pieces(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """Decodes what follows a prompt as it comes, in whole characters, up to end-of-text.

    >>> from ebm.tasks.text.tokenizers import Bytes
    >>> list(pieces(Bytes(), [110], [195, 169, 33, 256, 33]))
    ['é', '!']
    """
    row = Continuation(tokenizer, prompt)
    for token in tokens:
        if piece := row.push(token):
            yield piece
        if row.finish is not None:
            break
    if piece := row.close():
        yield piece
