"""The script of writers: one way to write a file at a time, each event with a mark, "@@GROUP-NUMBER@@", at its beginning.

python3 writers.py WRITER COUNT DIRECTORY ELSEWHERE

prints JSON: {"cpu_seconds": what the writing took, "events": [[group, first, count, pid], ...]}, or {"skipped": reason}. It knows
nothing of who watches DIRECTORY. Files to be captured end with ".log"; rotated ones go by ".log.1" and so on, as logrotate
names them. ELSEWHERE is a directory that nobody watches.
"""

import json
import mmap
import os
import subprocess
import sys
import time

LINE = 100
BLOCK = 4096


def line(group, number, length=LINE):
    mark = f"@@{group}-{number:06}@@ 2026-01-01T00:00:00Z INFO method=GET status=200 ".encode()
    return mark.ljust(length - 1, b"x") + b"\n"


def opened(path, flags=0):
    return os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)


def between_bursts(i, count):
    """Time enough to read all that was written before."""
    if i % (count // 5) == 0:
        time.sleep(1)


def append(count, directory, _):
    """Lines at the end of a file, as every log has them."""
    file = opened(f"{directory}/append.log", os.O_APPEND)
    for i in range(count):
        os.write(file, line("append", i))
    os.close(file)
    return [["append", 0, count, os.getpid()]]


def overwrite(count, directory, _):
    """Records of a file of 100 are replaced in their places."""
    file = opened(f"{directory}/overwrite.log")
    os.write(file, b"".join(b"old".ljust(LINE - 1, b".") + b"\n" for _ in range(100)))
    time.sleep(0.5)
    for i in range(count):
        os.pwrite(file, line("overwrite", i), i % 100 * LINE)
    os.close(file)
    return [["overwrite", 0, count, os.getpid()]]


def copytruncate(count, directory, _):
    """logrotate's copytruncate: the file is copied and cut to nothing in the middle of each of five bursts of its writer."""
    path = f"{directory}/copytruncate.log"
    file = opened(path, os.O_APPEND)
    for i in range(count):
        between_bursts(i, count)
        os.write(file, line("copytruncate", i))
        if i % (count // 5) == count // 10:
            subprocess.run(["cp", path, f"{path}.{i * 5 // count + 1}"], check=True)
            os.truncate(path, 0)
    os.close(file)
    return [["copytruncate", 0, count, os.getpid()]]


def rename(count, directory, _):
    """logrotate's create: in the middle of each of five bursts the file is renamed; its writer opens the new one ten lines later."""
    path = f"{directory}/rename.log"
    file = opened(path, os.O_APPEND)
    for i in range(count):
        between_bursts(i, count)
        os.write(file, line("rename", i))
        if i % (count // 5) == count // 10:
            os.rename(path, f"{path}.{i * 5 // count + 1}")
        if i % (count // 5) == count // 10 + 10:
            os.close(file)
            file = opened(path, os.O_APPEND)
    os.close(file)
    return [["rename", 0, count, os.getpid()]]


def short(count, directory, _):
    """Files that are made, written and removed within a millisecond."""
    for i in range(count):
        path = f"{directory}/short-{i}.log"
        file = opened(path, os.O_EXCL)
        os.write(file, line(f"short/{i}", 0))
        os.close(file)
        os.unlink(path)
        time.sleep(0.001)
    return [[f"short/{i}", 0, 1, os.getpid()] for i in range(count)]


def mapped(count, directory, _):
    """Stores into a shared mapping, a page each, and msync."""
    file = os.open(f"{directory}/mapped.log", os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(file, count * BLOCK)
    with mmap.mmap(file, count * BLOCK) as memory:
        for i in range(count):
            memory[i * BLOCK:(i + 1) * BLOCK] = line("mapped", i, BLOCK)
        memory.flush()
    os.close(file)
    return [["mapped", 0, count, os.getpid()]]


def sendfile(count, directory, elsewhere):
    """Lines that the kernel copies from another file."""
    with open(f"{elsewhere}/source", "wb+") as source:
        source.write(b"".join(line("sendfile", i) for i in range(count)))
        source.flush()
        file = opened(f"{directory}/sendfile.log")
        for i in range(count):
            os.sendfile(file, source.fileno(), i * LINE, LINE)
        os.close(file)
    return [["sendfile", 0, count, os.getpid()]]


def direct(count, directory, _):
    """Blocks past the page cache, O_DIRECT."""
    try:
        file = opened(f"{directory}/direct.log", os.O_DIRECT)
    except OSError as error:
        return f"no O_DIRECT here: {error}"
    with mmap.mmap(-1, BLOCK) as block:
        for i in range(count):
            block[:] = line("direct", i, BLOCK)
            os.write(file, block)
    os.close(file)
    return [["direct", 0, count, os.getpid()]]


def many(count, directory, _):
    """Small files, two lines each, that stay."""
    for i in range(count // 2):
        file = opened(f"{directory}/many-{i}.log")
        os.write(file, line(f"many/{i}", 0))
        os.write(file, line(f"many/{i}", 1))
        os.close(file)
    return [[f"many/{i}", 0, 2, os.getpid()] for i in range(count // 2)]


def exits(count, directory, _):
    """Processes that write one line and are gone."""
    events = []
    for i in range(count):
        arguments = ["sh", "-c", 'echo "$1" >>"$2"', "writer", line("exits", i).decode().rstrip("\n")]
        writer = subprocess.Popen([*arguments, f"{directory}/exits.log"])
        writer.wait()
        events.append(["exits", i, 1, writer.pid])
    return events


def main():
    name, count, directory, elsewhere = sys.argv[1:]
    writers = [append, overwrite, copytruncate, rename, short, mapped, sendfile, direct, many, exits]
    writer = {writer.__name__: writer for writer in writers}[name]
    before = os.times()
    done = writer(int(count), directory, elsewhere)
    after = os.times()
    if isinstance(done, str):
        print(json.dumps({"skipped": done}))
    else:
        print(json.dumps({"cpu_seconds": sum(after[:4]) - sum(before[:4]), "events": done}))


main()
