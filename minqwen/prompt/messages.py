"""From messages as people write them to plain JSON for a template, and their media.

Supports what transformers' processors and qwen-vl-utils read from a message. Any other
key of a picture or video is refused by name, since it would have no effect.
"""

import json
from collections import namedtuple

from ..errors import InputError, number, show
from .images import in_order

# A picture or video in a message: "image" or "video", the thing itself or where it is,
# and {key: number} of how to read it.
Media = namedtuple("Media", "kind source asked")
# The keys under which libraries pass the content of a part.
SOURCES = {
    "text": ("text",),
    "image": ("image", "image_url", "url", "path", "base64"),
    "video": ("video", "video_url", "url", "path"),
}
# The numbers that a picture or video may ask for, as `errors.number` takes them.
SIDE, COUNT = (int, 32, 2**16), (int, 2, 2**16)
TIME, RATE = (float, 0), (float, 0, 1000, True)
ASKED = {"min_pixels": (int, 1, 2**24), "max_pixels": (int, 1, 2**26),
         "resized_height": SIDE, "resized_width": SIDE}  # fmt: skip
ASKED_OF_VIDEO = ASKED | {
    "total_pixels": (int, 1, 2**30), "fps": RATE, "sample_fps": RATE, "nframes": COUNT,
    "num_frames": COUNT, "min_frames": (int, 1, 2**16), "max_frames": COUNT,
    "video_start": TIME, "video_end": TIME,
}  # fmt: skip
EXCLUDE = ("fps", "sample_fps", "nframes", "num_frames")  # at most one of them
INERT = {"type", "cache_control", "uuid"}  # only services read these
REASONING = ("reasoning_content", "thinking", "reasoning")
NAMED = ("text", "image", "image_url", "video", "video_url")  # if there is no "type"


def plain_messages(messages):
    """Messages as plain JSON for the template, and a list of the Media in them.

    As in transformers, null keys are dropped and reasoning may have any of its names.
    As in OpenAI's protocol, `developer` means `system`, and a tool call's arguments may
    be JSON text. Raises InputError that says where a message is malformed.
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
    """Without null values, which rows of a table have for keys they do not use."""
    return {key: value for key, value in mapping.items() if value is not None}


def _parse_arguments(call, place):
    """Replace a call's arguments given as JSON text by the object; empty means {}."""
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
    if kind not in SOURCES:
        said = "null" if said is None else f'"{show(said)}"'
        raise InputError(
            f"{place} has the type {said}, "
            'but only "text", "image" and "video" are known'
        )
    found = [name for name in SOURCES[kind] if name in part]
    if not found or kind == "text" and not isinstance(part["text"], str):
        raise InputError(
            f'{place} is of type "{kind}", so it must have a key "{kind}" with the '
            f"{'text' if kind == 'text' else kind + ' itself, or the path of its file'}"
        )
    if kind == "text":
        return {**part, "type": "text"}
    source = _source(part, kind, found, place)
    media.append(Media(kind, source, _asked(part, kind, place)))
    return {"type": kind, kind: f"<{kind}>"}


def _source(part, kind, found, place):
    """The picture or video itself, or where it is; `found`: the keys that hold it."""
    if len(found) > 1:
        raise InputError(
            f'{place} has both "{found[0]}" and "{found[1]}"; give the {kind} once'
        )
    source = part[found[0]]
    if not isinstance(source, dict) or "url" not in source:
        return source
    # OpenAI's form; its low detail is asked for with max_pixels here.
    odd = {k: v for k, v in source.items() if k != "url" and v is not None}
    if odd and odd not in ({"detail": "auto"}, {"detail": "high"}):
        raise InputError(
            f"{place} says {show(json.dumps(odd, default=str), 60)} beside the url, "
            "which is not followed here; for fewer tokens give max_pixels instead"
        )
    return source["url"]


def _asked(part, kind, place):
    """{key: number} of what a picture or video asks for, checked."""
    known = ASKED if kind == "image" else ASKED_OF_VIDEO
    if odd := sorted(map(show, part.keys() - {*known, *SOURCES[kind], *INERT})):
        raise InputError(
            f'{place} has the key "{odd[0]}", which is not followed here; '
            f"{'an' if kind == 'image' else 'a'} {kind} may have {', '.join(known)}"
        )
    given = [key for key in known if key in part]
    asked = {k: number(part[k], f"{place}: {k}", *known[k]) for k in given}
    rates = [key for key in EXCLUDE if key in asked]
    if len(rates) > 1:
        raise InputError(f"{place} has both {rates[0]} and {rates[1]}; give one")
    if ("resized_height" in asked) != ("resized_width" in asked):
        raise InputError(f"{place} has one of resized_height, resized_width; give both")
    in_order(asked, place)
    if asked.get("video_start", 0) >= asked.get("video_end", 2**53):
        raise InputError(f"{place}: video_end is not after video_start")
    return asked


def json_only(value, name):
    """A copy of JSON data; InputError for anything else."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{name} is not plain JSON data ({show(error)}); "
            "give dicts, lists, text and numbers"
        ) from None
