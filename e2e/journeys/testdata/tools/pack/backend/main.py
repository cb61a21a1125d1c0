"""Runs the commands of steps.json, one after the other, and prints what came of each as a line of JSON."""

import json
import subprocess
import time

with open("/pack/steps.json", encoding="utf-8") as f:
    steps = json.load(f)
for step in steps:
    done = subprocess.run(step["argv"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=300)
    text = done.stdout.decode("utf-8", "replace")
    for line in text.splitlines() or [""]:
        print(json.dumps({"step": step["name"], "status": done.returncode, "line": line[:2000]}))
print(json.dumps({"step": "end"}))
while True:
    time.sleep(60)
