#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad input gets one sentence that names what was wrong and its value, and a failed run; never a crash."""

import collections
import os
import pickle
import shutil
import struct

import model_files
from model_files import CONFIG, DECODER, DIT, PROJECTOR, PROMPT
from support import MODELS, Case, FrameList, flashvsr, main

SOURCE = ["-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25:duration=0.08"]
# Traces of an exception of LibTorch or the C++ library that was passed on as it is.
RAW_EXCEPTION = ["Exception raised", "frame #", "c10::", "std::", "terminate called", ".cpp:", "[json."]


class BadInput(Case):
    def refuse(self, graph, *needles, source=SOURCE, env=None):
        run = self.run_ffmpeg(*source, "-vf", graph, "-f", "null", "-", env=env)
        self.assertNotEqual(run.returncode, 0, str(run))
        errors = run.filter_errors()
        self.assertEqual(len(errors), 1, f"expected one sentence\n{run}")
        sentence = errors[0]
        for needle in needles:
            self.assertIn(str(needle), sentence)
        for trace in RAW_EXCEPTION:
            self.assertNotIn(trace, run.stderr)
        self.assertNotIn("Invalid data found", sentence)
        self.assertLess(len(sentence), 1000)
        return sentence


class BadOptions(BadInput):
    def refuse_option(self, name, value, *needles):
        self.refuse(flashvsr(**{name: value}), *needles or (name, value))

    def test_scale(self):
        for value in ("0", "9", "0.99", "8.01", "-4", "nan"):
            with self.subTest(value):
                self.refuse_option("scale", value)

    def test_scale_that_is_not_a_number(self):
        run = self.run_ffmpeg(*SOURCE, "-vf", flashvsr(scale="big"), "-f", "null", "-")
        self.assertNotEqual(run.returncode, 0, str(run))
        self.assertRegex(run.stderr, "\\[error\\].*scale.*big")

    def test_size_that_is_not_a_size(self):
        for name in ("w", "h"):
            for value in ("abc", "0", "-5", "1e9", "1e300", "iw/0", "0/0", "15", "129", "iw*"):
                with self.subTest(option=name, value=value):
                    # Numbers are named as they were evaluated.
                    shown = {"1e9": "1000000000", "-5": "-5"}.get(value, value)
                    sentence = self.refuse(flashvsr(**{name: value}), shown)
                    self.assertRegex(sentence, r"\b(w|out_width)\b" if name == "w" else r"\b(h|out_height)\b")

    def test_sizes_that_wait_for_each_other(self):
        self.refuse(flashvsr(w="-1", h="-1"), "-1")

    def test_output_that_is_too_large(self):
        self.refuse(flashvsr(scale="8"), "scale", "32768", "8200",
                    source=["-f", "lavfi", "-i", "nullsrc=size=8200x2:rate=25:duration=0.04"])

    def test_unknown_device(self):
        for value in ("toaster", "cpu9", "''''"):
            with self.subTest(value):
                self.refuse_option("device", value, "device", value.strip("'"))

    def test_precision(self):
        for value in ("bf16", "fp16", "fp8"):
            with self.subTest(value):
                self.refuse(flashvsr(precision=value, device="cpu"), "precision", value)

    def test_sparse_ratio(self):
        for value in ("0", "-1", "nan", "0.01"):
            with self.subTest(value):
                self.refuse_option("sparse_ratio", value)

    def test_kv_ratio(self):
        for value in ("-1", "nan", "1e6"):
            with self.subTest(value):
                self.refuse_option("kv_ratio", value, "kv_ratio", {"1e6": ""}.get(value, value))

    def test_local_range(self):
        for value in ("0", "-3"):
            with self.subTest(value):
                self.refuse_option("local_range", value)

    def test_first_frame(self):
        for value in ("-1", "1e10"):
            with self.subTest(value):
                self.refuse_option("first_frame", value, "first_frame", {"1e10": "10000000000"}.get(value, value))

    def test_version(self):
        for value in ("2", "0.5", "1.05"):
            with self.subTest(value):
                self.refuse_option("version", value)

    def test_unknown_names(self):
        for name, value in (("color_fix", "purple"), ("version", "latest"), ("seed", "-1"), ("precision", "fp8")):
            with self.subTest(name):
                run = self.run_ffmpeg(*SOURCE, "-vf", flashvsr(**{name: value}), "-f", "null", "-")
                self.assertNotEqual(run.returncode, 0, str(run))
                self.assertRegex(run.stderr, f"\\[error\\].*{name}.*")
                self.assertIn(value, "".join(line for line in run.stderr.splitlines() if "[error]" in line))


class BadModel(BadInput):
    def setUp(self):
        super().setUp()
        self.model = self.folder / "model" / "broken"  # the prompt is looked for outside of it, too
        self.model.parent.mkdir()
        shutil.copytree(MODELS / "mini", self.model)

    def restore(self, name):
        shutil.copy(MODELS / "mini" / name, self.model / name)

    def refuse_model(self, *needles, **settings):
        return self.refuse(f"flashvsr=model={self.model}", *needles, **settings)

    def test_the_copy_itself_is_good(self):
        self.ffmpeg(*SOURCE, "-vf", f"flashvsr=model={self.model}", "-f", "null", "-")

    def test_missing_directory(self):
        shutil.rmtree(self.model)
        self.refuse_model(self.model, "does not exist")

    def test_empty_directory(self):
        shutil.rmtree(self.model)
        self.model.mkdir()
        self.refuse_model(self.model, "empty")

    def test_file_in_place_of_the_directory(self):
        shutil.rmtree(self.model)
        self.model.write_text("")
        self.refuse_model(self.model, "not a directory")

    def test_built_in_model_that_is_not_there(self):
        missing = self.folder / "no-models"
        self.refuse("flashvsr", missing, "FLASHVSR_MODEL_DIR", env={"FLASHVSR_MODEL_DIR": str(missing)})

    def test_missing_file(self):
        for name in (DIT, PROJECTOR, DECODER, PROMPT):
            with self.subTest(name):
                (self.model / name).unlink()
                self.refuse_model(self.model, name)
                self.restore(name)

    def test_directory_in_place_of_a_file(self):
        for name in (DIT, PROJECTOR, DECODER, PROMPT):
            with self.subTest(name):
                (self.model / name).unlink()
                (self.model / name).mkdir()
                self.refuse_model(name)
                (self.model / name).rmdir()
                self.restore(name)

    def test_truncated_file(self):
        for name in (DIT, PROJECTOR, DECODER, PROMPT):
            whole = (self.model / name).read_bytes()
            for kept in (0, 4, 100, len(whole) // 2, len(whole) - 1):
                with self.subTest(name, kept=kept):
                    (self.model / name).write_bytes(whole[:kept])
                    self.refuse_model(name)
            self.restore(name)

    def test_file_of_something_else(self):
        for name in (DIT, PROJECTOR, DECODER, PROMPT):
            with self.subTest(name):
                (self.model / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 20)
                self.refuse_model(name)
                self.restore(name)

    def test_bad_config(self):
        for text, needle in (("{", "JSON"), ("[]", "JSON"), ('{"version": "3"}', '"3"'),
                             ('{"version": 1.1}', "version"), ('{"color_fix": "purple"}', "purple")):
            with self.subTest(text):
                (self.model / CONFIG).write_text(text)
                self.refuse_model(CONFIG, needle)

    # The safetensors header.

    def lie(self, change):
        model_files.edit_header(self.model / DIT, change)

    def test_header_length(self):
        content = (self.model / DIT).read_bytes()
        for length in (0, len(content), 2 ** 40, 2 ** 63, 2 ** 64 - 1):
            with self.subTest(length=length):
                (self.model / DIT).write_bytes(struct.pack("<Q", length) + content[8:])
                sentence = self.refuse_model(DIT)
                if length:
                    self.assertIn(str(length), sentence)

    def test_header_that_is_not_json(self):
        content = (self.model / DIT).read_bytes()
        for text in (b"\xff" * 64, b"{" * 64, b'{"a":' + b"[" * 59):
            with self.subTest(text):
                (self.model / DIT).write_bytes(struct.pack("<Q", 64) + text.ljust(64) + content)
                self.refuse_model(DIT)

    def test_offsets_past_the_end(self):
        header, data = model_files.read_safetensors(self.model / DIT)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        last = max(tensors, key=lambda name: tensors[name]["data_offsets"][1])
        self.assertEqual(tensors[last]["data_offsets"][1], len(data))
        self.lie(lambda header: header[last].update(data_offsets=[tensors[last]["data_offsets"][0], 2 ** 40]))
        self.refuse_model(DIT, last, 2 ** 40, len(data))

    def test_hole_in_the_data(self):
        def change(header):
            begin, end = header["head.head.bias"]["data_offsets"]
            header["head.head.bias"]["data_offsets"] = [begin + 2 ** 40, end + 2 ** 40]
        self.lie(change)
        self.refuse_model(DIT, "hole of 256 bytes")

    def test_offsets_backwards(self):
        def change(header):
            header["head.head.bias"]["data_offsets"].reverse()
        self.lie(change)
        self.refuse_model(DIT, "head.head.bias")

    def test_overlapping_tensors(self):
        def change(header):
            header["blocks.0.self_attn.q.weight"]["data_offsets"] = \
                header["blocks.0.self_attn.k.weight"]["data_offsets"]
        self.lie(change)
        self.refuse_model(DIT, "blocks.0.self_attn.", "overlap")

    def test_shape_that_does_not_match_the_bytes(self):
        def change(header):
            header["head.head.bias"]["shape"] = [65]
        self.lie(change)
        self.refuse_model(DIT, "head.head.bias", "65")

    def test_absurd_shapes(self):
        for shape in ([2 ** 62, 2 ** 62], [-1, -64], [2 ** 64], [1] * 100, "64", None):
            with self.subTest(shape=shape):
                self.lie(lambda header: header["head.head.bias"].update(shape=shape))
                self.refuse_model(DIT, "head.head.bias")
                self.restore(DIT)

    # Tensors.

    def test_missing_tensor(self):
        model_files.remove_tensor(self.model / DIT, "blocks.1.ffn.2.bias")
        self.refuse_model(DIT, "blocks.1.ffn.2.bias", "missing")

    def test_unknown_tensor(self):
        def change(header):
            header["head.tail.bias"] = header.pop("head.head.bias")
        self.lie(change)
        sentence = self.refuse_model(DIT)
        self.assertRegex(sentence, "head.(head|tail).bias")

    def test_tensor_of_a_wrong_shape(self):
        model_files.replace_tensor(self.model / DIT, "blocks.0.self_attn.q.weight", "F32", [64, 128],
                                   bytes(4 * 64 * 128))
        self.refuse_model(DIT, "blocks.0.self_attn.q.weight", "(64, 128)", "(128, 128)")

    def test_tensor_of_a_wrong_type(self):
        model_files.replace_tensor(self.model / DIT, "head.head.bias", "I64", [64], bytes(8 * 64))
        self.refuse_model(DIT, "head.head.bias", "I64")

    def test_unknown_type(self):
        self.lie(lambda header: header["head.head.bias"].update(dtype="F31"))
        self.refuse_model(DIT, "head.head.bias", "F31")

    def test_values_that_are_not_finite(self):
        for value in (float("nan"), float("inf"), float("-inf")):
            with self.subTest(value):
                model_files.poke(self.model / DIT, "blocks.1.ffn.0.weight", 1234, value)
                self.refuse_model(DIT, "blocks.1.ffn.0.weight")
                self.restore(DIT)

    def test_archive_values_that_are_not_finite(self):
        for name in (PROJECTOR, DECODER, PROMPT):
            with self.subTest(name):

                def change(entries):
                    storage = entries["data/0"]
                    entries["data/0"] = storage[:-4] + struct.pack("<f", float("nan"))
                model_files.edit_archive(self.model / name, change)
                self.refuse_model(name, "NaN")
                self.restore(name)

    def test_projector_that_does_not_fit_the_transformer(self):
        shutil.copy(MODELS / "wide" / PROJECTOR, self.model / PROJECTOR)
        self.refuse_model(PROJECTOR, "linear_layers.0.weight", "256", "128", "do not fit")

    # Torch archives.

    def edit_program(self, name, change):
        def change_entries(entries):
            changed = change(entries["data.pkl"])
            self.assertNotEqual(changed, entries["data.pkl"])
            entries["data.pkl"] = changed
        model_files.edit_archive(self.model / name, change_entries)

    def test_a_rewritten_archive_is_good(self):
        """So that the refusals below are for what was edited."""
        for name in (PROJECTOR, DECODER, PROMPT):
            model_files.edit_archive(self.model / name, lambda entries: None)
        self.ffmpeg(*SOURCE, "-vf", f"flashvsr=model={self.model}", "-f", "null", "-")

    def test_archive_that_runs_a_command(self):
        for name in (PROJECTOR, DECODER, PROMPT):
            for hidden in (False, True):
                with self.subTest(name, hidden=hidden):
                    marker = self.folder / "marker"
                    program = model_files.pickle_of(
                        {"decoder.1.weight": model_files.Call(os.system, f"touch {marker}")})
                    pickle.loads(program)
                    self.assertTrue(marker.exists(), "an ordinary unpickler runs it")
                    marker.unlink()
                    # Hidden: behind all of a good program, without the header and in place of the final dot.
                    self.edit_program(name, lambda given: given[:-1] + program[2:] if hidden else program)
                    self.refuse_model(name, "system")
                    self.assertFalse(marker.exists(), "the command in the archive was run")
                    self.restore(name)

    def test_archive_with_a_class(self):
        for value, needle in ((collections.Counter("a"), "collections.Counter"), (range(3), "range"),
                              (model_files.Call(eval, "1"), "eval")):
            for name in (PROJECTOR, DECODER, PROMPT):
                with self.subTest(name, value=needle):
                    self.edit_program(name, lambda given: model_files.pickle_of({"conv1.weight": value}))
                    self.refuse_model(name, needle)
                    self.restore(name)

    def test_archive_without_tensors(self):
        for name in (PROJECTOR, DECODER, PROMPT):
            for value in ({"conv1.weight": 1}, [], "text", None):
                with self.subTest(name, value=value):
                    self.edit_program(name, lambda given: model_files.pickle_of(value))
                    self.refuse_model(name)
                    self.restore(name)

    def test_archive_with_a_missing_tensor(self):
        for name, tensor in ((PROJECTOR, b"conv2.bias"), (DECODER, b"decoder.26.bias")):
            with self.subTest(name):
                self.edit_program(name, lambda given: given.replace(tensor, tensor[:-1] + b"z"))
                self.refuse_model(name, tensor.decode())
                self.restore(name)

    def test_archive_with_a_wrong_shape(self):
        first, second = b"decoder.1.weight", b"decoder.3.weight"
        self.edit_program(DECODER, lambda given: given.replace(first, b"*" * len(first))
                          .replace(second, first).replace(b"*" * len(first), second))
        self.refuse_model(DECODER, "decoder.1.weight", "(16, 16, 3, 3)", "784")

    def test_archive_with_a_wrong_type(self):
        for name in (PROJECTOR, DECODER, PROMPT):
            with self.subTest(name):
                self.edit_program(name, lambda given: given.replace(b"FloatStorage", b"IntStorage"))
                self.refuse_model(name, "Int")
                self.restore(name)

    def test_archive_without_a_storage(self):
        for name in (PROJECTOR, DECODER, PROMPT):
            with self.subTest(name):
                model_files.edit_archive(self.model / name, lambda entries: entries.pop("data/0"))
                self.refuse_model(name, "data/0")
                self.restore(name)

    def test_archive_with_a_short_storage(self):
        def change(entries):
            entries["data/0"] = entries["data/0"][:-4]
        for name in (PROJECTOR, DECODER, PROMPT):
            with self.subTest(name):
                model_files.edit_archive(self.model / name, change)
                self.refuse_model(name, "data/0")
                self.restore(name)


class OddStreams(BadInput):
    # A filter that changes the size while ffmpeg's graph stays the same.
    GROW_AT_30 = "scale=w='if(lt(n\\,30)\\,16\\,32)':h=16:eval=frame"

    def test_zero_frames(self):
        empty = self.folder / "empty"
        empty.write_bytes(b"")
        raw = ["-f", "rawvideo", "-pixel_format", "gbrp", "-video_size", "16x16", "-i", empty]
        self.refuse(flashvsr(), "no frames", source=raw)
        # Frames that filters in front let none of through are another matter: an empty output, as from any filter.
        for before in ("trim=end_frame=0", "select=0"):
            with self.subTest(before):
                run = self.ffmpeg(*SOURCE, "-vf", f"{before},{flashvsr()}", "-f", "framecrc", "-")
                self.assertEqual(FrameList(run.text).pts, [])

    def test_size_change_inside_the_graph(self):
        source = ["-f", "lavfi", "-i", "testsrc2=size=16x16:rate=25:duration=2.4"]
        graph = f"{self.GROW_AT_30},format=gbrp,{flashvsr()}"
        self.refuse(graph, "16x16", "32x16", source=source)


if __name__ == "__main__":
    main()
