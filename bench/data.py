"""bench/data.py"""
import argparse, sys, json
from pathlib import Path
from curation import warc
from curation.sides import Options, serve
PARTS = {"warc": warc}
if sys.argv[1:2] == ["--serve"]:
    part, side, folder, pinned = sys.argv[2:]
    serve(PARTS[part].prepare, side, Path(folder), bool(int(pinned)))
else:
    o = PARTS[sys.argv[1]].measure(Options(size=float(sys.argv[2]), turns=int(sys.argv[3])))
    print(json.dumps(o.figures), o.checks)
