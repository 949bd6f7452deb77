#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What flashvsr_golden says about folders that are wrong: runner_test.py PROGRAM GOLDEN_FOLDER"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM, GOLDEN = sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
# A part that takes no time and needs no model.
QUICK = "/local_mask/"


def run(*arguments, **environment):
    env = {key: value for key, value in os.environ.items() if key != "FLASHVSR_TEST_FOLDER"} | environment
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, env=env, timeout=600)
    return done.returncode, done.stdout, done.stderr


class Runner(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name) / "a folder"
        shutil.copytree(GOLDEN, self.folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())

    def tearDown(self):
        self.temporary.cleanup()

    def write_manifest(self):
        (self.folder / "manifest.json").write_text(json.dumps(self.manifest))

    def entry(self, text, role="golden"):
        return next(e for e in self.manifest["files"] if text in e["group"] + "/" + e["name"] and e["role"] == role)

    def poke(self, entry, fmt, value, index=-1):
        """Replace a value of the tensor: the last one, unless told."""
        path = self.folder / entry["file"]
        data = bytearray(path.read_bytes())
        size = struct.calcsize(fmt)
        at = len(data) + index * size
        data[at:at + size] = struct.pack(fmt, value)
        path.write_bytes(data)

    def test_good_part_passes(self):
        code, out, err = run(self.folder, "--filter", QUICK)
        self.assertEqual((code, err), (0, ""), out)
        self.assertIn(" 0 failed", out)
        self.assertEqual(out.count("\nok ") + out.startswith("ok "), len(
            [e for e in self.manifest["files"] if QUICK in e["group"] + "/" and e["role"] == "golden"]))

    def test_one_changed_bit_fails(self):
        entry = self.entry(QUICK)
        path = self.folder / entry["file"]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        code, out, _ = run(self.folder, "--filter", QUICK)
        self.assertEqual(code, 1)
        self.assertRegex(out, r"FAIL +" + entry["group"] + "/" + entry["name"])
        self.assertIn(" 1 failed", out)

    def test_change_within_and_beyond_tolerance(self):
        entry = self.entry("/color/adain")
        path = self.folder / entry["file"]
        value = struct.unpack("<f", path.read_bytes()[-4:])[0]
        entry["tolerance"]["max"] = 1e-2
        self.write_manifest()
        self.poke(entry, "<f", value + 5e-3)
        self.assertEqual(run(self.folder, "--filter", "/color/adain")[0], 0)
        self.poke(entry, "<f", value + 2e-2)
        self.assertEqual(run(self.folder, "--filter", "/color/adain")[0], 1)

    def test_nan_never_passes(self):
        entry = self.entry("/color/adain")
        self.poke(entry, "<f", float("nan"))
        code, out, _ = run(self.folder, "--filter", "/color/adain")
        self.assertEqual(code, 1)
        self.assertIn("nan", out)

    def test_golden_that_nothing_computes_fails(self):
        entry = dict(self.entry(QUICK), name="of_another_kind")
        self.manifest["files"].append(entry)
        self.write_manifest()
        code, out, _ = run(self.folder, "--filter", QUICK)
        self.assertEqual(code, 1)
        self.assertRegex(out, "FAIL +.*of_another_kind.*no tensor of this name")

    def test_wrong_input_shape_is_a_failure_not_a_crash(self):
        entry = self.entry("/color/hq", role="input")
        self.manifest["files"] = [e for e in self.manifest["files"] if e is not entry]
        self.write_manifest()
        code, out, _ = run(self.folder, "--filter", "/color/")
        self.assertEqual(code, 1)
        self.assertIn("no tensor 'hq'", out)

    def test_missing_file_is_bad(self):
        entry = self.entry("/color/adain")
        (self.folder / entry["file"]).unlink()
        code, _, err = run(self.folder, "--filter", QUICK)
        self.assertEqual(code, 2)
        self.assertIn(entry["file"], err)

    def test_broken_file_is_bad(self):
        entry = self.entry("/color/adain")
        path = self.folder / entry["file"]
        path.write_bytes(path.read_bytes()[:-1])
        code, _, err = run(self.folder)
        self.assertEqual(code, 2)
        self.assertIn(entry["file"], err)

    def test_missing_model_is_bad(self):
        shutil.rmtree(self.folder / self.manifest["cases"][0]["model"])
        code, _, err = run(self.folder, "--filter", QUICK)
        self.assertEqual(code, 2)
        self.assertIn(self.manifest["cases"][0]["model"], err)

    def test_manifest_that_is_none_is_bad(self):
        for text in ("", "{", "[]", "{}", '{"cases": [], "files": []}'):
            (self.folder / "manifest.json").write_text(text)
            code, _, err = run(self.folder)
            self.assertEqual(code, 2, text)
            self.assertIn("manifest.json", err)
        (self.folder / "manifest.json").unlink()
        self.assertEqual(run(self.folder)[0], 2)
        self.assertEqual(run(self.folder / "nowhere")[0], 2)

    def test_unknown_group_is_listed_and_bad(self):
        for group in ("parts/v1.1/of_another_kind", "elsewhere", "e2e/no_such_case"):
            entry = dict(self.entry(QUICK), group=group)
            self.manifest["files"].append(entry)
            self.write_manifest()
            code, out, _ = run(self.folder, "--filter", group)
            self.assertEqual(code, 2, out)
            self.assertIn("unknown  " + group, out)

    def test_full_pipeline_is_listed_and_never_passed(self):
        case = self.manifest["cases"][0]
        case["pipeline"] = "full"
        self.manifest["files"].append(dict(self.entry(QUICK), group="parts/v1.1/vae", name="out"))
        self.write_manifest()
        code, out, _ = run(self.folder, "--filter", "e2e/" + case["name"])
        self.assertEqual(code, 77, out)
        self.assertIn("not built  e2e/" + case["name"], out)
        self.assertIn("0 compared", out)
        code, out, _ = run(self.folder, "--filter", "/vae/")
        self.assertEqual(code, 77, out)
        self.assertIn("not built  parts/v1.1/vae: 1 tensors", out)

    def test_filter_that_nothing_matches_is_no_pass(self):
        self.assertEqual(run(self.folder, "--filter", "no such tensor")[0], 77)

    def test_list_runs_nothing(self):
        code, out, _ = run(self.folder, "--list")
        self.assertEqual(code, 0)
        for group in {e["group"] for e in self.manifest["files"] if e["role"] == "golden"}:
            self.assertRegex(out, group + r": \d+ tensors, built")

    def test_environment(self):
        code, out, _ = run("--env", "FLASHVSR_TEST_FOLDER")
        self.assertEqual(code, 77)
        self.assertIn("skipped: FLASHVSR_TEST_FOLDER", out)
        self.assertEqual(run("--env", "FLASHVSR_TEST_FOLDER", "--list", FLASHVSR_TEST_FOLDER=str(self.folder))[0], 0)

    def test_bad_arguments(self):
        for arguments in ((), ("--filter",), ("--unknown", self.folder), (self.folder, self.folder)):
            code, _, err = run(*arguments)
            self.assertEqual(code, 2)
            self.assertIn("Usage:", err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
