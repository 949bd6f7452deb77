# SPDX-License-Identifier: LGPL-2.1-or-later
"""Edits of model files, by which tests make bad ones out of good ones."""

import json
import pickle
import struct
import zipfile

DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"
PROJECTOR = "LQ_proj_in.ckpt"
DECODER = "TCDecoder.ckpt"
PROMPT = "posi_prompt.pth"
CONFIG = "config.json"


def read_safetensors(path):
    """The header, a dict, and the data behind it."""
    content = path.read_bytes()
    length, = struct.unpack_from("<Q", content)
    return json.loads(content[8:8 + length]), content[8 + length:]


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_header(path, change):
    """Let a function change the header in place; the data stays as it is."""
    header, data = read_safetensors(path)
    change(header)
    write_safetensors(path, header, data)


def replace_tensor(path, name, dtype, shape, content):
    """Give a tensor another type, shape and content; the file stays a consistent one."""
    header, data = read_safetensors(path)
    order = sorted((name for name in header if name != "__metadata__"),
                   key=lambda name: header[name]["data_offsets"])
    parts, offset, changed = [], 0, {}
    for key in order:
        begin, end = header[key]["data_offsets"]
        part = content if key == name else data[begin:end]
        kept = {"dtype": dtype, "shape": shape} if key == name else header[key]
        changed[key] = {**kept, "data_offsets": [offset, offset + len(part)]}
        parts.append(part)
        offset += len(part)
    write_safetensors(path, changed, b"".join(parts))


def remove_tensor(path, name):
    header, data = read_safetensors(path)
    begin, end = header[name]["data_offsets"]
    changed = {}
    for key, entry in header.items():
        if key == name:
            continue
        first, last = entry["data_offsets"]
        shift = end - begin if first >= end else 0
        changed[key] = {**entry, "data_offsets": [first - shift, last - shift]}
    write_safetensors(path, changed, data[:begin] + data[end:])


def poke(path, name, index, value):
    """Overwrite a float32 of a tensor."""
    header, data = read_safetensors(path)
    entry = header[name]
    if entry["dtype"] != "F32":
        raise ValueError(f"{name} is {entry['dtype']}")
    offset = entry["data_offsets"][0] + 4 * index
    write_safetensors(path, header, data[:offset] + struct.pack("<f", value) + data[offset + 4:])


def edit_archive(path, change):
    """Let a function change the entries of a torch archive, a dict of name without folder -> content."""
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{folder}/{name}", content)


class Call:
    """Pickles as the call of a function, which an ordinary unpickler would make while it loads."""

    def __init__(self, function, *arguments):
        self.function = function
        self.arguments = arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickle_of(value):
    """A pickle program in the protocol that torch.save uses."""
    return pickle.dumps(value, protocol=2)
