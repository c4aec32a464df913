"""Times as OpenAI's clients read them: whole Unix seconds, or null."""


def whole_seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
