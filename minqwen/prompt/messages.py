"""Messages as people write them, to what a template is given and the media in them.

What transformers' processors and qwen-vl-utils read of a message is followed here. Any
other key of a picture or a video is refused by name: it would change nothing.
"""

import json
from collections import namedtuple

from ..errors import InputError, number, show

# Of a picture or video in a message: what it is, and the keys that say how to read it.
Media = namedtuple("Media", "kind source asked")
# Names under which libraries pass the thing itself.
SOURCES = {
    "image": ("image", "image_url", "url", "path", "base64"),
    "video": ("video", "video_url", "url", "path"),
}
# The numbers that a picture or video may ask for, as `errors.number` takes them.
PIXELS, SIDE, COUNT, RATE = (
    (int, 1, 2**26),
    (int, 32, 2**16),
    (int, 2, 2**16),
    (float, 0),
)
ASKED = {"min_pixels": (int, 1, 2**24), "max_pixels": PIXELS, "resized_height": SIDE,
         "resized_width": SIDE}  # fmt: skip
ASKED_OF_VIDEO = ASKED | {
    "total_pixels": (int, 1, 2**30), "fps": (*RATE, 1000, True),
    "sample_fps": (*RATE, 1000, True), "nframes": COUNT, "num_frames": COUNT,
    "min_frames": (int, 1, 2**16), "max_frames": COUNT, "video_start": RATE,
    "video_end": RATE,
}  # fmt: skip
# Rates, and counts of frames, of which one alone can hold.
EXCLUDE = ("fps", "sample_fps", "nframes", "num_frames")
INERT = {"type", "cache_control", "uuid"}  # what services keep books with
REASONING = ("reasoning_content", "thinking", "reasoning")
NAMED = ("text", "image", "image_url", "video", "video_url")


def plain_messages(messages):
    """Messages as plain JSON for the template, and the Media taken out of them.

    The template only needs to know where those are. As in transformers, keys that are
    null are left out, and reasoning is found under its other names; `developer` is
    `system`, and arguments of a tool call may be JSON text, as OpenAI's protocol has
    them. Raises InputError naming the place of what is not a message.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError(
            f"messages are {type(messages).__name__} of length 0 or no list; give a "
            'list such as [{"role": "user", "content": "Hello"}]'
        )
    media = []
    return [_message(m, f"messages[{i}]", media) for i, m in enumerate(messages)], media


def _message(message, place, media):
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InputError(
            f"{place} is {show(message, 60)}, but a dict with "
            '"role" and "content" is needed'
        )
    message = _said(message)
    content = message.get("content", "")
    if not isinstance(content, (str, list, tuple)):
        raise InputError(
            f"{place} has content of type {type(content).__name__}; "
            "give text or a list of content items"
        )
    if isinstance(content, (list, tuple)):
        parts = enumerate(content)
        content = [_part(each, f"{place}.content[{k}]", media) for k, each in parts]
        message["content"] = content
    message = json_only(message, place)
    if message["role"] == "developer":
        message["role"] = "system"
    if said := [message[name] for name in REASONING if name in message]:
        message = {"thinking": said[0], **message, "reasoning_content": said[0]}
    calls = message.get("tool_calls")
    for k, call in enumerate(calls if isinstance(calls, list) else []):
        _parse_arguments(call, f"{place}.tool_calls[{k}]")
    return message


def _said(mapping):
    """What is not null: tables of messages give each of them every key."""
    return {key: value for key, value in mapping.items() if value is not None}


def _parse_arguments(call, place):
    """Arguments that are JSON text, as the object they say; none is an empty one."""
    call = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(call, dict) or "arguments" not in call:
        return
    said = call["arguments"]
    try:
        found = json.loads(said or "{}") if isinstance(said, str) else said
        found = {} if found is None else found
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} is no object")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place} has arguments that are not a JSON object ({show(error)}): "
            f"{show(said, 60)}; give a dict, or its JSON as text"
        ) from None
    call["arguments"] = found


def _part(part, place, media):
    part = _said(part) if isinstance(part, dict) else {}
    said = part.get("type") or next((name for name in NAMED if name in part), None)
    kind = said.removesuffix("_url") if isinstance(said, str) else None
    if kind not in ("text", *SOURCES):
        said = "null" if said is None else f'"{show(said)}"'
        raise InputError(
            f"{place} has the type {said}, "
            'but only "text", "image" and "video" are known'
        )
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise _lacks(kind, place)
        return {**part, "type": "text"}
    media.append(Media(kind, _source(part, kind, place), _asked(part, kind, place)))
    return {"type": kind, kind: f"<{kind}>"}


def _lacks(kind, place):
    return InputError(
        f'{place} is of type "{kind}", so it must have a key "{kind}" with the '
        f"{'text' if kind == 'text' else kind + ' itself, or the path of its file'}"
    )


def _source(part, kind, place):
    """The picture or video itself, or where it is, under whichever name it has."""
    found = [name for name in SOURCES[kind] if name in part]
    if not found:
        raise _lacks(kind, place)
    if len(found) > 1:
        raise InputError(
            f'{place} has both "{found[0]}" and "{found[1]}"; give the {kind} once'
        )
    source = part[found[0]]
    if not isinstance(source, dict) or "url" not in source:
        return source
    # OpenAI's form. Less detail is asked for by max_pixels here.
    odd = {k: v for k, v in source.items() if k != "url" and v is not None}
    if odd and odd not in ({"detail": "auto"}, {"detail": "high"}):
        raise InputError(
            f"{place} says {show(json.dumps(odd, default=str), 60)} beside the url, "
            "which is not followed here; for fewer tokens give max_pixels instead"
        )
    return source["url"]


def _asked(part, kind, place):
    """{key: number} of what a picture or video asks for itself, each in its range."""
    known = ASKED if kind == "image" else ASKED_OF_VIDEO
    if odd := sorted(map(show, part.keys() - {*known, *SOURCES[kind], *INERT})):
        raise InputError(
            f'{place} has the key "{odd[0]}", which is not followed here; '
            f"{'an' if kind == 'image' else 'a'} {kind} may have {', '.join(known)}"
        )
    given = [key for key in known if key in part]
    asked = {k: number(part[k], f"{place}: {k}", *known[k]) for k in given}
    _agree(asked, place)
    return asked


def _agree(asked, place):
    rates = [key for key in EXCLUDE if key in asked]
    if len(rates) > 1:
        raise InputError(f"{place} has both {rates[0]} and {rates[1]}; give one")
    if ("resized_height" in asked) != ("resized_width" in asked):
        raise InputError(f"{place} has one of resized_height, resized_width; give both")
    for what in ("pixels", "frames"):
        low, high = asked.get(f"min_{what}", 0), asked.get(f"max_{what}", 2**53)
        if low > high:
            raise InputError(
                f"{place}: min_{what} is {low}, above max_{what}, which is {high}"
            )
    if asked.get("video_start", 0) >= asked.get("video_end", 2**53):
        raise InputError(f"{place}: video_end is not after video_start")


def json_only(value, name):
    """A copy of JSON data; InputError for anything that is more than that."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{name} is not plain JSON data ({show(error)}); "
            "give dicts, lists, text and numbers"
        ) from None
