"""Runs the programs that it is told, one JSON list of words a line, and says in JSON what came of each."""

import json
import subprocess
import sys

DEADLINE = 50

for line in sys.stdin:
    words = json.loads(line)
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)
        answer = {"code": done.returncode}
        answer.update(stdout=done.stdout.decode(errors="replace"), stderr=done.stderr.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        answer = {"code": 124, "stdout": "", "stderr": f"not done within {DEADLINE} s"}
    except OSError as error:
        answer = {"code": 127, "stdout": "", "stderr": str(error)}
    print(json.dumps(answer), flush=True)
