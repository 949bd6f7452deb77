# SPDX-License-Identifier: LGPL-2.1-or-later
"""flashvsr-cluster: the command line."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Sequence

from flashvsr_cluster import ffmpeg, graph, options, part
from flashvsr_cluster.errors import FAILED, ClusterError, UsageError
from flashvsr_cluster.join import check_container, join, kept_streams
from flashvsr_cluster.plan import LEAD_IN, Part, Plan, count_parts, cut_film
from flashvsr_cluster.probe import SCENE_THRESHOLD, Film, probe_film, same_film, stat_film
from flashvsr_cluster.slurm import Resources, require_logs, write_scripts
from flashvsr_cluster.state import Work
from flashvsr_cluster.weights import find_weights, model_folder

INTERRUPTED = 130


def check(given: argparse.Namespace) -> options.OutputOptions:
    """The output options of a command line, all of which is looked at before anything is made.

    @throws ClusterError for what cannot be meant, or a film that cannot be read
    """
    if given.workers is not None and given.workers < 1:
        raise UsageError(f"--workers {given.workers} is below 1")
    if given.part_frames and given.part_frames < LEAD_IN:
        raise UsageError(f"--part-frames {given.part_frames} is below {LEAD_IN}")
    if given.scene_threshold is not None and not 0 <= given.scene_threshold <= 100:
        raise UsageError(f"--scene-threshold {given.scene_threshold:g} is not one of 0 to 100")
    film_path, out = Path(given.film).resolve(), Path(given.out).resolve()
    ffmpeg.require_suffix(out)
    if film_path == out:
        raise UsageError(f"{out} is the film itself")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} is not a folder")
    output = options.split(given.options)
    model_folder(output.graph)
    stat_film(film_path)
    return output


def _cut(given: argparse.Namespace, film: Film, workers: int) -> tuple[Part, ...]:
    return tuple(cut_film(film.frames, film.cuts, count_parts(film.frames, workers, given.part_frames)))


def _asks_for_other_parts(given: argparse.Namespace, plan: Plan) -> bool:
    """Whether options that stand on the command line would cut the plan's film elsewhere."""
    if given.scene_threshold not in (None, plan.film.scene_threshold):
        return True
    return bool(given.workers or given.part_frames) and _cut(given, plan.film, given.workers or 1) != plan.parts


def make_plan(given: argparse.Namespace, output: options.OutputOptions, work: Work, workers: int) -> Plan:
    """The plan for a command line. What was planned before is kept as far as it still holds."""
    film_path, out = Path(given.film).resolve(), Path(given.out).resolve()
    tools = ffmpeg.Tools.beside(given.ffmpeg)
    version = ffmpeg.version(tools)
    weights = find_weights(tools, output.graph)
    text = output.graph
    if weights.folder and not model_folder(text):  # it was named by the environment, which workers do not share
        text = graph.with_option(text, "model", weights.folder)

    old = work.load_plan()
    if old and not same_film(old.film, film_path):
        old = None
    if out.exists() and not given.force and not (old and work.made_by(out)):
        raise UsageError(f"{out} exists; --force replaces it")
    first_frame = ffmpeg.takes_first_frame(tools)

    def plan_of(film: Film, parts: tuple[Part, ...]) -> Plan:
        return Plan(film=film, out=str(out), parts=parts, graph=text, video_options=output.video,
                    file_options=output.file, weights=weights, tools=tools, ffmpeg_version=version,
                    first_frame=first_frame)

    plan = plan_of(old.film, old.parts) if old else None
    if plan and _asks_for_other_parts(given, plan):
        if done := len(work.done(plan)):
            print(f"flashvsr-cluster: the film stays cut as it is, with {done} of {len(plan.parts)} parts finished; "
                  f"remove {work.plan_file} to cut it anew", file=sys.stderr)
        else:
            plan = None
    if plan is None:
        if old and given.scene_threshold in (None, old.film.scene_threshold):
            film = old.film
        else:
            film = probe_film(tools, film_path,
                              SCENE_THRESHOLD if given.scene_threshold is None else given.scene_threshold)
        plan = plan_of(film, _cut(given, film, workers))
    check_container(plan, out)
    work.save_plan(plan)
    return plan


def _work(given: argparse.Namespace) -> Work:
    out = Path(given.out).resolve()
    return Work(Path(given.work).resolve()) if given.work else Work.of(out)


def describe(plan: Plan) -> str:
    """What a plan says, for people."""
    film = plan.film
    at_cuts = sum(one.first == one.begin for one in plan.parts[1:])
    given = sum(one.given for one in plan.parts)
    kept = kept_streams(plan, Path(plan.out))
    left_out = [f"{one.index} ({one.kind})" for one in film.streams if one not in kept]
    lines = [f"{film.path}: {film.frames} frames, {film.seconds:.3f} s, {len(film.cuts)} scene cuts",
             f"{len(plan.parts)} parts, {at_cuts} begin at cuts, "
             f"{given - film.frames} frames ({given / film.frames - 1:.1%}) are given twice"]
    if left_out:
        lines.append(f"left out: streams {', '.join(left_out)}")
    return "\n".join(lines)


def command_plan(given: argparse.Namespace) -> None:
    output, work = check(given), _work(given)
    with work.lead():
        plan = make_plan(given, output, work, given.workers or 1)
    print(describe(plan))
    for index, one in enumerate(plan.parts):
        print(f"part {index}: frames {one.begin}-{one.end - 1}, given {one.first}-{one.last - 1}")
        if given.commands:
            folder = work.attempts
            print(shlex.join(part.command(part.job_of(plan, index), folder / f"{index}.nut", folder / f"{index}.crc")))
    print(f"plan: {work.folder}")


def command_run(given: argparse.Namespace) -> None:
    from flashvsr_cluster import run  # Ray takes a second to load, and the other commands do without it

    output, work, out = check(given), _work(given), Path(given.out).resolve()
    with work.lead():
        run.connect(given.address)
        limits = run.Limits(gpus=run.default_gpus() if given.gpus is None else given.gpus, cpus=given.cpus,
                            tries=given.tries, stall=given.stall)
        plan = make_plan(given, output, work, given.workers or max(1, run.slots(limits)))
        print(describe(plan), file=sys.stderr)
        if not work.finished(plan, out):
            run.run_parts(plan, work, limits, given.move)
            join(plan, work, out)
        if not given.keep:
            work.remove()
    print(f"{out}: {plan.film.frames} frames")


def command_part(given: argparse.Namespace) -> None:
    work = Work(Path(given.work).resolve())
    plan = work.need_plan()
    if not 0 <= given.index < len(plan.parts):
        raise UsageError(f"part {given.index} is not one of 0 to {len(plan.parts) - 1}")
    job = part.job_of(plan, given.index)
    if not work.record(job.key):
        part.check_tools(plan.tools, plan.ffmpeg_version, plan.weights)
    made = part.make_part(job, work)
    print(f"part {given.index}: {made.frames} frames in {made.seconds:.1f} s on {made.host}")


def command_join(given: argparse.Namespace) -> None:
    work = Work(Path(given.work).resolve())
    work.need_plan()  # else leading would make a folder of any name
    with work.lead():
        plan = work.need_plan()
        join(plan, work, Path(plan.out))
    print(f"{plan.out}: {plan.film.frames} frames")


def command_status(given: argparse.Namespace) -> None:
    work = Work(Path(given.work).resolve())
    plan = work.need_plan()
    done = work.done(plan)
    frames = sum(one.kept for one in done)
    print(f"{plan.out}: {frames}/{plan.film.frames} frames in {len(done)}/{len(plan.parts)} finished parts")
    if work.finished(plan, Path(plan.out)):
        print("the film is joined")
    elif work.led():
        print(f"running: {json.loads(work.progress_file.read_text())['line']}" if work.progress_file.exists()
              else "running")
    else:
        print("no flashvsr-cluster run leads it now")
    for record in done.values():
        print(f"{record.key} {record.frames} frames, {record.frames / max(record.seconds, 1e-3):.1f} frames/s, "
              f"{record.host}")


def command_slurm(given: argparse.Namespace) -> None:
    output, work = check(given), _work(given)
    require_logs(work)
    resources = Resources(gpus=int(1 if given.gpus is None else given.gpus), cpus=int(given.cpus),
                          at_once=given.at_once, extra=given.sbatch)
    with work.lead():
        plan = make_plan(given, output, work, given.workers or 1)
        submit = write_scripts(plan, work, resources)
    print(describe(plan))
    print(f"submit with: {shlex.quote(str(submit))}")


def _film_arguments(parser: argparse.ArgumentParser, workers: str) -> None:
    parser.add_argument("film", metavar="IN")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--work", help="folder for the plan and the parts (default: OUT.parts)")
    parser.add_argument("--ffmpeg", default="ffmpeg", help="ffmpeg with the filter, the same on every worker")
    parser.add_argument("--workers", type=int, help=f"devices to plan for (default: {workers})")
    parser.add_argument("--part-frames", type=int, default=0, help="frames of a part (default: about 2400)")
    parser.add_argument("--scene-threshold", type=float, help="of scdet, percent (10)")
    parser.add_argument("--force", action="store_true", help="replace OUT")


def _device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpus", type=float, help="GPUs of a worker (default: 1 where there are any)")
    parser.add_argument("--cpus", type=float, default=1, help="processors of a worker (default: 1)")


def parser() -> argparse.ArgumentParser:
    """The command line, without the ffmpeg options behind `--`."""
    top = argparse.ArgumentParser(prog="flashvsr-cluster", description="One film over many machines.",
                                  epilog="Behind -- stand ffmpeg's output options, --vf among them: "
                                  "flashvsr-cluster run in.mp4 out.mp4 -- -c:v libx264 "
                                  "--vf flashvsr=scale=2,format=yuv420p")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="cut a film into parts")
    _film_arguments(plan, "1")
    plan.add_argument("--commands", action="store_true", help="print each part's ffmpeg command line")
    plan.set_defaults(call=command_plan)

    run = commands.add_parser("run", help="plan, run on a Ray cluster, join; or go on where it stopped")
    _film_arguments(run, "what the cluster has")
    _device_arguments(run)
    run.add_argument("--address", help="of the Ray cluster (default: this machine's, else a new one)")
    run.add_argument("--move", action="store_true", help="move files through Ray: workers share no folder")
    run.add_argument("--tries", type=int, default=3, help="of a part that ffmpeg refuses to make (3)")
    run.add_argument("--stall", type=float, default=part.STALL_SECONDS, help="seconds without a frame (900)")
    run.add_argument("--keep", action="store_true", help="keep the parts")
    run.set_defaults(call=command_run)

    slurm = commands.add_parser("slurm", help="plan and write scripts for sbatch")
    _film_arguments(slurm, "1")
    _device_arguments(slurm)
    slurm.add_argument("--at-once", type=int, default=0, help="most array tasks that run together")
    slurm.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="such as --partition=gpu")
    slurm.set_defaults(call=command_slurm)

    one = commands.add_parser("part", help="make one part, as SLURM and GNU parallel do")
    one.add_argument("work", metavar="WORK")
    one.add_argument("index", type=int, metavar="N", help="counted from 0")
    one.set_defaults(call=command_part)

    for name, call, text in (("join", command_join, "join the parts"), ("status", command_status, "what is done")):
        other = commands.add_parser(name, help=text)
        other.add_argument("work", metavar="WORK")
        other.set_defaults(call=call)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 for what failed, 2 for what cannot be meant."""
    words = list(sys.argv[1:] if words is None else words)
    cut = words.index("--") if "--" in words else len(words)
    given = parser().parse_args(words[:cut])
    given.options = words[cut + 1:]
    try:
        given.call(given)
        return 0
    except ClusterError as error:
        print(f"flashvsr-cluster: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"flashvsr-cluster: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("flashvsr-cluster: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
